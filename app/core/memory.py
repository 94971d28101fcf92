"""What becomes of memory that the process has freed."""

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT_BYTES = 16 << 20
_LARGE_BYTES = 4 << 20


def keep_freed_memory() -> None:
    """Have blocks below 4 MiB come from memory that was used before; nothing changes where the C library is not glibc.

    Left alone, glibc may give the pages of a piece of an upload back to the system and ask for them again, piece by
    piece. Whether it does is chance, and it costs several times what receiving the piece costs.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        set_option(_M_TRIM_THRESHOLD, _KEPT_BYTES)

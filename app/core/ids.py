"""Prefixed, opaque, time-ordered object ids (``ftjob-01k...``).

The body is a 128-bit ULID in lower-case Crockford base 32: 48 bits of milliseconds, then 80 random bits that
count upwards inside one millisecond, so that ids made by one process sort in the order they were made.
"""

import os
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_RANDOM_BITS = 80
_lock = threading.Lock()
_last = 0

FILE = "file-"
JOB = "ftjob-"
EVENT = "ftevent-"
CHECKPOINT = "ftckpt-"
ADAPTER = "adapter-"
REQUEST = "req_"
PROJECT = "proj_"
API_KEY = "key_"
PREVIEW = "preview_"


def new_id(prefix: str) -> str:
    """Return ``prefix`` followed by 26 characters that sort by creation time."""
    return prefix + _encode(_next_value())


def _next_value() -> int:
    global _last  # noqa: PLW0603 - one monotonic counter per process is the point of this module
    fresh = (time.time_ns() // 1_000_000) << _RANDOM_BITS | int.from_bytes(os.urandom(10)) >> 1
    with _lock:
        _last = fresh if fresh >> _RANDOM_BITS > _last >> _RANDOM_BITS else _last + 1
        return _last


def _encode(value: int) -> str:
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(120, -1, -10)])

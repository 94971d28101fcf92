"""Private directories, secret files, socket folders and the lock of a state directory."""

import fcntl
import hashlib
import os
import secrets
import signal
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.embedded.errors import InUseError, UnsafeDirectoryError
from app.embedded.process import wait_until

# sun_path holds 108 bytes with its terminating zero.
_MAX_SOCKET_PATH = 107


def ensure_private(directory: Path) -> Path:
    """Create ``directory`` with mode 0700, or check that it is ours and closed to others; return it, absolute.

    An empty directory is closed; a used one that is open is refused, since it may not be meant for us.

    Raises:
        UnsafeDirectoryError: It belongs to another user, or is in use and open to others.
    """
    directory = directory.expanduser().absolute()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise UnsafeDirectoryError(f"{directory} is not a directory of this user; choose another one.")
    if stat.S_IMODE(status.st_mode) & 0o077:
        if any(directory.iterdir()):
            raise UnsafeDirectoryError(
                f"{directory} is open to other users and not empty; run `chmod 700` on it if it is meant for this."
            )
        directory.chmod(0o700)
    return directory


def ensure_ours(directory: Path) -> Path:
    """Create ``directory`` with mode 0700, or check that nobody else can replace what lies in it; return it, absolute.

    An existing one keeps its mode: its owner may share it to read, and everything we put there is closed by itself.

    Raises:
        UnsafeDirectoryError: It belongs to another user, or others may write to it.
    """
    directory = directory.expanduser().absolute()
    if not directory.is_dir():
        return ensure_private(directory)
    status = directory.stat()
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise UnsafeDirectoryError(f"Other users can write to {directory}; choose another state directory.")
    return directory


def socket_directory(preferred: Path, longest_name: str) -> Path:
    """Return a private folder for sockets: ``preferred``, or a short one when a path in it exceeds 107 bytes.

    The short one lies below XDG_RUNTIME_DIR or the temporary folder, and its name follows from ``preferred``, so that a
    killed process leaves no second one behind.
    """
    if len(os.fsencode(preferred / longest_name)) <= _MAX_SOCKET_PATH:
        return ensure_private(preferred)
    base = os.environ.get("XDG_RUNTIME_DIR")
    root = Path(base) if base and Path(base).is_dir() else Path(tempfile.gettempdir())
    digest = hashlib.sha256(os.fsencode(preferred.absolute())).hexdigest()[:16]
    short = root / f"nlft-{digest}"
    if len(os.fsencode(short / longest_name)) > _MAX_SOCKET_PATH:
        short = Path("/tmp") / short.name
    return ensure_private(short)


def secret_file(path: Path) -> str:
    """Return the secret in ``path``; make it (32 random bytes, hexadecimal, mode 0600) when absent."""
    with suppress(FileNotFoundError):
        return path.read_text(encoding="ascii").strip()
    write_private(path, secrets.token_hex(32) + "\n")
    return path.read_text(encoding="ascii").strip()


def write_private(path: Path, text: str) -> None:
    """Write ``text`` with mode 0600 so that a reader sees the old content or the whole new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold ``directory/lock`` for the time of the block; the kernel releases it however the process ends.

    Raises:
        InUseError: Another holder exists; names its process id.
    """
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip()
            raise InUseError(str(directory), int(holder) if holder.isdigit() else None) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def processes_inside(directory: Path) -> list[int]:
    """Return the processes whose working directory is ``directory``: servers work in their data directory (Linux)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if entry.readlink() == directory:
                found.append(int(entry.parent.name))
    return found


def end_leftovers(directory: Path, *, seconds: float = 10.0) -> None:
    """End servers that a killed parent left in ``directory``. Call it with the lock held, so nobody else owns them."""
    for number in (signal.SIGINT, signal.SIGKILL):
        leftovers = processes_inside(directory)
        if not leftovers:
            return
        for pid in leftovers:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        wait_until(lambda: not processes_inside(directory), seconds=seconds)


@contextmanager
def locked_wait(directory: Path) -> Iterator[None]:
    """Hold ``directory/lock`` for the time of the block, waiting for other holders first."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

"""Folders of processes that wait for work, each under a lock that tells whether its owner lives."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_LOCK_FILE = "lock"


@dataclass(frozen=True, slots=True)
class LockedFolder:
    """A locked folder; whoever inherits ``descriptor`` holds the lock too."""

    path: Path
    descriptor: int

    def remove(self) -> None:
        """Delete the folder and let go of the lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.descriptor)


def take_folder(root: Path, kind: str, contents: Sequence[str]) -> LockedFolder:
    """Return a new folder for a process of this ``kind`` below ``root``, with empty folders called ``contents``.

    Folders of the kind whose owners and their children are all dead are deleted first.
    """
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in root.glob(f"{kind}-*"):
        descriptor = _lock(left)
        if descriptor is not None:
            LockedFolder(left, descriptor).remove()
    path = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=root))
    descriptor = os.open(path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for name in contents:
        (path / name).mkdir()
    return LockedFolder(path, descriptor)


def _lock(folder: Path) -> int | None:
    """Return the lock of a folder whose owner is dead; None while anybody holds it, or before it was locked."""
    with suppress(FileNotFoundError):
        descriptor = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            return descriptor
    return None

"""The folder of one warm preview process, under a lock that tells whether its owner lives."""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from worker.training.previews.protocol import REQUESTS_DIR

_PREFIX = "preview-"
_LOCK_FILE = "lock"
SCRATCH_DIR = "tmp"


@dataclass(frozen=True, slots=True)
class PreviewFolder:
    """A locked folder; whoever inherits ``descriptor`` holds the lock too."""

    path: Path
    descriptor: int

    def remove(self) -> None:
        """Delete the folder and let go of the lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.descriptor)


def take_folder(root: Path) -> PreviewFolder:
    """Return a new folder below ``root``, after deleting those whose owners and their children are all dead."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in root.glob(f"{_PREFIX}*"):
        descriptor = _lock(left)
        if descriptor is not None:
            PreviewFolder(left, descriptor).remove()
    path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
    descriptor = os.open(path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for name in (REQUESTS_DIR, SCRATCH_DIR):
        (path / name).mkdir()
    return PreviewFolder(path, descriptor)


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

"""Job slots of a host: one locked file each, whose descriptor the child inherits.

A slot is free only when every holder of the lock is dead, so an orphaned trainer blocks its slot instead of sharing the
device with a new one, and two worker processes on one folder never share a slot.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Slot:
    """A locked slot: ``folder`` is its scratch space, ``descriptor`` carries the lock."""

    number: int
    folder: Path
    descriptor: int


@contextmanager
def take_slot(folder: Path, slots: int) -> Iterator[Slot | None]:
    """Yield the first free slot below ``folder`` with its scratch space emptied, or None when all are taken."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    slot = next(filter(None, (_lock(folder, number) for number in range(slots))), None)
    if slot is None:
        yield None
        return
    try:
        shutil.rmtree(slot.folder, ignore_errors=True)
        slot.folder.mkdir(mode=0o700)
        yield slot
    finally:
        os.close(slot.descriptor)


def _lock(folder: Path, number: int) -> Slot | None:
    descriptor = os.open(folder / f"slot-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return Slot(number, folder / f"slot-{number}", descriptor)

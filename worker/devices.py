"""Devices of a host: locked files like the slots, so that no two jobs share one unless its name is listed twice.

A job gets all of its devices at once, together with the claim, or none: nothing is held while waiting for more. As
with slots, children inherit the descriptors, and a device is free only when every process that held it is dead.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from app.core.devices import DeviceList


@dataclass
class Held:
    """Locked devices: their ``names``, and the ``descriptors`` that carry the locks."""

    names: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()

    def release(self) -> None:
        """Let others have the devices, once no child holds them any more."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.names = self.descriptors = ()


@dataclass
class Offer:
    """What a claim may use: ``free`` devices of this host, of ``total`` that it has."""

    total: int
    free: int
    _locks: dict[str, int] = field(default_factory=dict)

    def take(self, count: int) -> Held:
        """Return ``count`` of the free devices; the rest is given back when the offer ends."""
        chosen = list(self._locks)[:count]
        return Held(tuple(chosen), tuple(self._locks.pop(name) for name in chosen))


@contextmanager
def offer_devices(folder: Path, devices: DeviceList) -> Iterator[Offer]:
    """Yield what is free on this host; until the end of the block nobody else on it is offered anything.

    Without configured devices there is one to offer, which is whatever the trainer finds, and it is not locked.
    """
    if not devices.names:
        yield Offer(1, 1)
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    turn = os.open(folder / "devices.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    locks: dict[str, int] = {}
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        for place, name in _places(devices.names):
            descriptor = None if name in locks else _lock(folder / f"device-{place}.lock")
            if descriptor is not None:
                locks[name] = descriptor
        yield Offer(devices.total, len(locks), locks)
    finally:
        for descriptor in locks.values():
            os.close(descriptor)
        os.close(turn)


def _places(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield a place and its device for every mention; the second mention of device 0 is the place ``0.1``."""
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, -1) + 1
        yield f"{name}.{seen[name]}", name


def _lock(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    os.close(descriptor)
    return None

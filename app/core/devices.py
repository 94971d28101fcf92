"""The devices that an operator gives to jobs, as written in a setting."""

import re
from dataclasses import dataclass

_COUNT = re.compile(r"(cpu:)?([1-9][0-9]{0,2})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")


@dataclass(frozen=True, slots=True)
class DeviceList:
    """Devices of a worker's host; a name that stands twice may be used by two jobs at a time.

    Attributes:
        names: Numbers or ids of CUDA devices, or places on the CPU (``cpu-0``); none: jobs take what they find.
    """

    names: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "DeviceList":
        """Return the devices of ``4`` (0 to 3), ``0,2`` or ``2,`` (those), ``GPU-8f`` (that), ``cpu:2`` (two places).

        Raises:
            ValueError: It is none of these.
        """
        if count := _COUNT.fullmatch(text.strip()):
            prefix = "cpu-" if count[1] else ""
            return cls(tuple(f"{prefix}{number}" for number in range(int(count[2]))))
        names = tuple(name.strip() for name in text.split(",") if name.strip())
        if not all(map(_NAME.fullmatch, names)) or (text.strip() and not names):
            raise ValueError("devices are a count (4), a list (0,2), ids (GPU-...) or places on the CPU (cpu:2)")
        return cls(names)

    @property
    def total(self) -> int:
        """The most devices that a job can have."""
        return max(1, len(set(self.names)))


def visible_devices(names: tuple[str, ...]) -> dict[str, str]:
    """Return the environment in which a trainer sees these devices only; without names, whatever there is."""
    if not names:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(name for name in names if not name.startswith("cpu"))}

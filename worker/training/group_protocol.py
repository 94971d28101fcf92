"""How a process that trains several runs talks to its parent: the lines of ``events``, each behind its run's number.

The process is started like any other, on a folder that holds ``group.json`` instead of a spec: the list of the runs'
workspaces. A line in either direction begins with the place of its run in this list, from 0, and a blank. ``NUMBER end
STATUS`` is the last that is said of a run, with the exit status of a process that had done it alone. The end of the
control pipe still means that the parent is gone.
"""

import json
from collections.abc import Sequence
from pathlib import Path

GROUP_FILE = "group.json"
NUMBER_BYTES = 8
"""By how much a line may grow: room that a run leaves to the number in front of its lines."""
_END = b"end "


def write_group(folder: Path, workspaces: Sequence[Path]) -> None:
    """Make ``folder`` the one that a process for ``workspaces`` is started on."""
    (folder / GROUP_FILE).write_text(json.dumps([str(workspace) for workspace in workspaces]))


def is_group(folder: Path) -> bool:
    """Return whether ``folder`` is one for several runs."""
    return (folder / GROUP_FILE).is_file()


def read_group(folder: Path) -> list[Path]:
    """Return the workspaces that ``folder`` lists."""
    return [Path(workspace) for workspace in json.loads((folder / GROUP_FILE).read_text())]


def number_line(number: int, line: bytes) -> bytes:
    """Return ``line`` as one of run ``number``."""
    return b"%d %s" % (number, line)


def split_line(line: bytes) -> tuple[int, bytes]:
    """Return the number in front of ``line``, and what stands behind it.

    Raises:
        ValueError: There is no number.
    """
    number, _, rest = line.partition(b" ")
    if not number.isdigit():
        raise ValueError("a line without a number")
    return int(number), rest


def end_line(status: int) -> bytes:
    """Return what is said last of a run."""
    return b"%s%d\n" % (_END, status)


def read_end(line: bytes) -> int | None:
    """Return the exit status that ``line`` tells, None where it tells something else."""
    status = line.removeprefix(_END).strip()
    return int(status) if line.startswith(_END) and status.isdigit() else None

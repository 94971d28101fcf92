"""The rows that a run trains on, and how built ones are kept: in the workspace, in checkpoints, as an artifact."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from worker.training.building.report import BuildReport
from worker.training.data.reader import Row, read_rows
from worker.training.errors import CheckpointError
from worker.training.spec import BUILT_DIR, DATASET_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_FACTS_FILE = "building.json"


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """Rows to train.

    Attributes:
        rows: With the lines of the training file; of the built dataset where there is one already.
        expendable: Positions of rows that a stage wrote, which may turn out unfit.
        report: What the stages made; None where there was nothing to make.
        is_new: The rows differ from the training file's in more than ``correct``.
    """

    rows: list[Row]
    expendable: frozenset[int] = frozenset()
    report: BuildReport | None = None
    is_new: bool = False

    @property
    def count(self) -> int:
        """Rows before any was found unfit, so that a resumed run chooses what the first one did."""
        return len(self.rows) if self.report is None else self.report.rows


@dataclass(frozen=True, slots=True)
class KeptRows:
    """Built rows in a folder: the dataset, and the facts about its building."""

    folder: Path

    @property
    def files(self) -> Mapping[str, Path]:
        """The files by their names."""
        return {name: self.folder / name for name in (DATASET_FILE, _FACTS_FILE)}

    @classmethod
    def of_workspace(cls, workspace: Path) -> KeptRows:
        """Return the rows that the run in ``workspace`` has built."""
        return cls(workspace / BUILT_DIR)

    def save(self, rows: Sequence[Row], report: BuildReport, *, is_new: bool) -> None:
        """Write ``rows`` as a dataset that can be trained again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        encode = msgspec.json.Encoder().encode
        with self.files[DATASET_FILE].open("wb") as file:
            file.writelines(encode(_plain(row)) + b"\n" for row in rows)
        self.files[_FACTS_FILE].write_bytes(encode(_Facts(report, is_new)))

    def load(self) -> TrainingRows | None:
        """Return the rows that were saved here; None where there are none.

        Raises:
            CheckpointError: The files do not belong together.
        """
        if not all(path.is_file() for path in self.files.values()):
            return None
        try:
            facts = msgspec.json.decode(self.files[_FACTS_FILE].read_bytes(), type=_Facts)
        except msgspec.MsgspecError as error:
            raise CheckpointError("the built rows cannot be read; resume from an earlier checkpoint") from error
        with self.files[DATASET_FILE].open("rb") as file:
            return TrainingRows(read_rows(file), report=facts.report, is_new=facts.is_new)

    def export(self, folder: Path) -> None:
        """Copy the dataset into ``folder``, unless it says no more than the training file."""
        kept = self.files[_FACTS_FILE]
        if kept.is_file() and msgspec.json.decode(kept.read_bytes(), type=_Facts).is_new:
            shutil.copyfile(self.files[DATASET_FILE], folder / DATASET_FILE)


class _Facts(msgspec.Struct, frozen=True):
    report: BuildReport
    is_new: bool


def _plain(row: Row) -> dict[str, Any]:
    """Return a row as a person would write it: without the fields that it does not use."""
    fields = _used(msgspec.to_builtins(row.example))
    return fields | ({"messages": [_used(message) for message in fields["messages"]]} if "messages" in fields else {})


def _used(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}

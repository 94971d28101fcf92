"""The files of a stage: ``stages/<stage>-<key>/part-0000.jsonl``, one record a line. Free of torch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from worker.training.events import Stage
from worker.training.spec import STAGES_DIR


class Rollout(msgspec.Struct, frozen=True):
    """Response ``index`` sampled for the row on ``line``; not ``finished`` where the limit of ``tokens`` cut it off."""

    line: int
    index: int
    response: str
    finished: bool
    tokens: int


class GradeRecord(msgspec.Struct, frozen=True):
    """The score of a response, told by the ``digest`` of its texts; ``error`` where there is none."""

    line: int
    index: int
    digest: str
    score: float
    error: str | None = None


class JudgmentRecord(msgspec.Struct, frozen=True):
    """What a judge wrote on a response, told by the ``digest`` of its texts; ``error`` where nothing came back."""

    line: int
    index: int
    digest: str
    text: str
    error: str | None = None


class ScoreRecord(msgspec.Struct, frozen=True):
    """Log-probabilities of a text, told by a ``digest`` of it and of what decides their bits.

    ``logprobs`` are little-endian float32, ``check`` is a digest of both.
    """

    digest: str
    logprobs: bytes
    check: str = ""


MOST_PARTS = 1_000_000
R = TypeVar("R", Rollout, GradeRecord, JudgmentRecord, ScoreRecord)


def part_path(stage: Stage, key: str, part: int) -> str:
    """Return where part ``part`` of a stage lies, relative to the workspace."""
    return f"{STAGES_DIR}/{stage}-{key}/part-{part:04d}.jsonl"


@dataclass(frozen=True, slots=True)
class PartStore(Generic[R]):
    """Parts of one stage in a workspace. A part is complete or absent."""

    workspace: Path
    stage: Stage
    key: str
    record_type: type[R]

    def parts(self) -> list[int]:
        """Return the numbers of the parts that are there."""
        folder = (self.workspace / part_path(self.stage, self.key, 0)).parent
        names = (path.stem.removeprefix("part-") for path in folder.glob("part-*.jsonl"))
        return sorted(int(name) for name in names if name.isdecimal())

    def load(self, part: int) -> list[R] | None:
        """Return the records of a part; None where there is none, or none that can be read."""
        try:
            lines = (self.workspace / part_path(self.stage, self.key, part)).read_bytes().splitlines()
            return [msgspec.json.decode(line, type=self.record_type) for line in lines]
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def save(self, part: int, records: Sequence[R]) -> str:
        """Write a part and return its path relative to the workspace."""
        name = part_path(self.stage, self.key, part)
        target = self.workspace / name
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            file.writelines(msgspec.json.encode(record) + b"\n" for record in records)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
        return name

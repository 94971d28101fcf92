"""Scores by the base model, kept in parts of a stage that all jobs of a project share."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from worker.training.building.keys import scores_key
from worker.training.building.parts import MOST_PARTS, PartStore, ScoreRecord, part_path
from worker.training.events import StageEvent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from worker.training.events import Stage
    from worker.training.observer import Observer

_STAGE: Stage = "scoring"
_PART_TEXTS = 64


class KeptScores:
    """The scores of texts by one base model: those that earlier runs left in the workspace, and those of this run.

    Args:
        workspace: The run's folder.
        base_digest: Of the base model.
        precision: What else decides the bits: number format and kind of device.
        observer: Is told of every part that is written; None keeps nothing.
    """

    def __init__(self, workspace: Path, base_digest: str, precision: str, observer: Observer | None) -> None:
        self._key = scores_key(base_digest)
        self._model = f"{base_digest} {precision}"
        self._observer = observer
        self._store = PartStore(workspace, _STAGE, self._key, ScoreRecord)
        self._fresh: list[ScoreRecord] = []
        records = (record for part in self._store.parts() for record in self._store.load(part) or [])
        self._known = {record.digest: record for record in records if _check(record) == record.check}

    @property
    def folder(self) -> Path:
        """Where the parts lie, relative to the workspace."""
        return Path(part_path(_STAGE, self._key, 0)).parent

    def find(self, digest: str) -> NDArray[np.float32] | None:
        """Return the log-probabilities, float32 [n], of the text with this digest; None where they are not known."""
        record = self._known.get(self._place(digest))
        return None if record is None else np.frombuffer(record.logprobs, dtype="<f4").astype(np.float32)

    def keep(self, digest: str, logprobs: NDArray[np.float32]) -> None:
        """Take in the log-probabilities, float32 [n], of the text with this digest; now and then a part is written."""
        if self._observer is None:
            return
        plain = ScoreRecord(self._place(digest), logprobs.astype("<f4").tobytes())
        record = ScoreRecord(plain.digest, plain.logprobs, _check(plain))
        self._known[record.digest] = record
        self._fresh.append(record)
        if len(self._fresh) >= _PART_TEXTS:
            self.flush()

    def flush(self) -> None:
        """Write what was taken in since the last part, and tell of it."""
        if self._observer is None or not self._fresh:
            return
        # A number that follows from the content: jobs of a project that score at the same time do not meet.
        number = _number([record.digest for record in self._fresh])
        path = self._store.save(number, self._fresh)
        self._observer.emit(StageEvent(_STAGE, self._key, number, path, {"records": len(self._fresh)}))
        self._fresh = []

    def _place(self, digest: str) -> str:
        return hashlib.sha256(f"{self._model} {digest}".encode()).hexdigest()


def _check(record: ScoreRecord) -> str:
    return hashlib.sha256(record.digest.encode() + record.logprobs).hexdigest()[:16]


def _number(digests: Sequence[str]) -> int:
    return int(hashlib.sha256("".join(digests).encode()).hexdigest()[:12], 16) % MOST_PARTS

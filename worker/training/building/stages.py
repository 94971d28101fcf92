"""Runs a stage part by part: what an earlier run left is taken, the rest is made, kept and told."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from worker.training.building.parts import GradeRecord, JudgmentRecord, PartStore, Rollout
from worker.training.events import MessageEvent, PhaseEvent, StageEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from worker.training.building.candidates import Candidate
    from worker.training.engine.pulse import Pulse
    from worker.training.events import Stage
    from worker.training.observer import Observer

Identity = tuple[Any, ...]
R = TypeVar("R", Rollout, GradeRecord, JudgmentRecord)
OnDone: TypeAlias = "Callable[[int], None]"
"""Is told how many records of a part are done; raises to end the run."""


@dataclass(frozen=True, slots=True)
class Part(Generic[R]):
    """One part of a stage: what its records belong to, in order, and how to make them.

    ``make`` is handed a function that it tells how many records are done.
    """

    expected: tuple[Identity, ...]
    make: Callable[[OnDone], list[R]]


def split(
    candidates: Sequence[Candidate], size: int, work: Callable[[Sequence[Candidate], OnDone], list[R]]
) -> list[Part[R]]:
    """Return the parts, of ``size`` at most, in which ``work`` makes a record for each of ``candidates``."""
    chunks = [candidates[start : start + size] for start in range(0, len(candidates), size)]
    return [Part(tuple((one.line, one.index, one.digest) for one in chunk), partial(work, chunk)) for chunk in chunks]


@dataclass(frozen=True, slots=True)
class StageRunner:
    """Runs the stages of one workspace."""

    workspace: Path
    observer: Observer
    pulse: Pulse

    def run(self, stage: Stage, key: str, record_type: type[R], parts: Sequence[Part[R]]) -> list[R]:
        """Return the records of all ``parts``, in order.

        Parts in which something failed are not kept, so that a later run tries again.

        Raises:
            TrainingInterrupted: The observer asked for an early end.
        """
        store = PartStore(self.workspace, stage, key, record_type)
        total, found = sum(len(part.expected) for part in parts), 0
        records: list[R] = []
        self.observer.emit(PhaseEvent(stage))
        for number, part in enumerate(parts):
            kept = store.load(number)
            if kept is not None and tuple(map(identity, kept)) == part.expected:
                found += len(kept)
            else:
                kept = part.make(partial(self._beat, total, len(records)))
                if not any(getattr(record, "error", None) for record in kept):
                    self.observer.emit(StageEvent(stage, key, number, store.save(number, kept), {"records": len(kept)}))
            records += kept
            self.pulse.beat(len(records), total)
        if found:
            message = f"{found} of {total} results of this stage were there already and were not made again."
            self.observer.emit(MessageEvent("info", message, {"stage": stage, "found": found, "total": total}))
        return records

    def _beat(self, total: int, before: int, here: int) -> None:
        self.pulse.beat(before + here, total)


def identity(record: Rollout | GradeRecord | JudgmentRecord) -> Identity:
    """Return what a record belongs to: line and index, and for a verdict the digest of the texts that it is about."""
    return (record.line, record.index, *([] if isinstance(record, Rollout) else [record.digest]))

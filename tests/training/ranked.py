"""Runs cases on all ranks of a group, one after the other: ``python -m tests.training.ranked FOLDER``.

``FOLDER/cases.json`` lists them in order. Each case is a prepared workspace ``FOLDER/NAME``; rank R leaves how it ended
in ``NAME/end-R.json``, and the first rank its events in ``NAME/events.jsonl``.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.training.builders import RecordingObserver
from worker.training.command import load_spec
from worker.training.engine.forward import Forward
from worker.training.engine.optimizer import AdapterOptimizer
from worker.training.engine.parallel import Ranks
from worker.training.engine.step import Stepper
from worker.training.errors import TrainingError, TrainingInterrupted
from worker.training.events import encode
from worker.training.trainer import train

FEW_TOKENS = 70


@dataclass(frozen=True)
class Case:
    """A workspace to train, and what goes wrong in it.

    Attributes:
        name: Folder of the workspace.
        stop_after: Step after which the parent asks for a stop.
        resume_from: Checkpoint of an earlier case to continue from, relative to the folder of all cases.
        mischief: What the second rank does: ``memory`` (has little), ``drift`` (steps differently), ``raise``.
    """

    name: str
    stop_after: int | None = None
    resume_from: str | None = None
    mischief: str | None = None


@dataclass
class End:
    """How a rank ended a case, and what it had to try."""

    error: str | None = None
    message: str = ""
    examples: list[int] = field(default_factory=list)
    refused: int = 0


class ConnectedRanks(Ranks):
    """Ranks that have met before the first case."""

    @contextmanager
    def connected(self) -> Iterator[None]:
        yield


def run_all(folder: Path) -> None:
    ranks = ConnectedRanks.from_environment(os.environ)
    with Ranks.connected(ranks):
        for fields in json.loads((folder / "cases.json").read_text()):
            run_case(folder, Case(**fields), ranks)


def run_case(folder: Path, case: Case, ranks: Ranks) -> None:
    workspace = folder / case.name
    if case.resume_from:
        ranks.on_first(lambda: (folder / str(case.resume_from)).rename(workspace / "resume"))
    observer = RecordingObserver(after_step=case.stop_after if ranks.is_first else None)
    end = End()
    with watched(end), misbehaving(case.mischief if ranks.rank == 1 else None, end):
        try:
            train(workspace, load_spec(workspace), observer, ranks=ranks)
        except (TrainingError, TrainingInterrupted) as error:
            end.error, end.message = type(error).__name__, str(error)
    (workspace / f"end-{ranks.rank}.json").write_text(json.dumps(asdict(end)))
    if ranks.is_first:
        (workspace / "events.jsonl").write_bytes(b"".join(map(encode, observer.events)))


@contextmanager
def watched(end: End) -> Iterator[None]:
    accumulate = Stepper._accumulate

    def counted(self: Stepper, examples: Any, *rest: Any) -> Any:
        end.examples.append(len(examples))
        return accumulate(self, examples, *rest)

    with patch.object(Stepper, "_accumulate", counted):
        yield


@contextmanager
def misbehaving(mischief: str | None, end: End) -> Iterator[None]:
    score, learning_rate = Forward.score, AdapterOptimizer.learning_rate

    def score_in_little_memory(self: Forward, documents: Any) -> Any:
        if len(documents) > 1 and sum(len(document.input_ids) for document in documents) > FEW_TOKENS:
            end.refused += 1
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return score(self, documents)

    def raise_something(self: Forward, documents: Any) -> Any:
        raise ValueError("nobody foresaw this")

    patches: dict[str, tuple[type, str, Callable[..., Any]]] = {
        "memory": (Forward, "score", score_in_little_memory),
        "raise": (Forward, "score", raise_something),
        "drift": (AdapterOptimizer, "learning_rate", lambda self, step: 1.001 * learning_rate(self, step)),
    }
    if mischief is None:
        yield
        return
    with patch.object(*patches[mischief]):
        yield


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))

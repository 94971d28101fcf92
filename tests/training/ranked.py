"""Runs cases on all ranks of a group, one after the other: ``python -m tests.training.ranked FOLDER``.

``FOLDER/cases.json`` lists them in order. Each case is a prepared workspace ``FOLDER/NAME``; rank R leaves how it ended
in ``NAME/end-R.json``, and the first rank its events in ``NAME/events.jsonl``.
"""

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import nn
from torch.distributed.tensor import DTensor
from transformers.models.llama.modeling_llama import LlamaMLP

from tests.training.builders import RecordingObserver
from worker.training.command import load_spec
from worker.training.engine.forward import Forward
from worker.training.engine.optimizer import AdapterOptimizer
from worker.training.engine.parallel import Ranks
from worker.training.engine.step import Stepper
from worker.training.errors import TrainingError, TrainingInterrupted
from worker.training.events import Event, PhaseEvent, encode
from worker.training.model import lora
from worker.training.trainer import train

FEW_TOKENS = 70
FusedLinear: Any = lora._FusedLinear
Patch = tuple[type, str, Callable[..., Any]]


@dataclass(frozen=True)
class Case:
    """A workspace to train, and what goes wrong in it.

    Attributes:
        name: Folder of the workspace.
        stop_after: Step after which the parent asks for a stop.
        resume_from: Checkpoint of an earlier case to continue from, relative to the folder of all cases.
        mischief: What the second rank does: has little ``memory``, steps differently (``drift``), or ``raise``s; some
            of it ``inside`` the model or ``on the way back`` through it, where others wait if it is sharded.
    """

    name: str
    stop_after: int | None = None
    resume_from: str | None = None
    mischief: str | None = None


@dataclass
class End:
    """How a rank ended a case, what it had to try, and the bytes of frozen weights that it held while it trained."""

    error: str | None = None
    message: str = ""
    examples: list[int] = field(default_factory=list)
    refused: int = 0
    held_bytes: int = 0


class ConnectedRanks(Ranks):
    """Ranks that have met before the first case."""

    @contextmanager
    def connected(self) -> Iterator[None]:
        yield


class WeighingObserver(RecordingObserver):
    """Weighs the model whenever training begins or goes on."""

    held_bytes = 0

    def emit(self, event: Event) -> None:
        super().emit(event)
        if event == PhaseEvent("training"):
            self.held_bytes = frozen_bytes()


def frozen_bytes() -> int:
    """Return the bytes behind all frozen weights of this process."""
    gc.collect()
    frozen = [one for one in gc.get_objects() if isinstance(one, nn.Parameter) and not one.requires_grad]
    local = [one.to_local() if isinstance(one, DTensor) else one for one in frozen]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in local}
    return sum(storages.values())


def run_all(folder: Path) -> None:
    ranks = ConnectedRanks.from_environment(os.environ)
    with Ranks.connected(ranks):
        for fields in json.loads((folder / "cases.json").read_text()):
            run_case(folder, Case(**fields), ranks)


def run_case(folder: Path, case: Case, ranks: Ranks) -> None:
    workspace = folder / case.name
    if case.resume_from:
        ranks.on_first(lambda: (folder / str(case.resume_from)).rename(workspace / "resume"))
    observer = WeighingObserver(after_step=case.stop_after if ranks.is_first else None)
    end = End()
    with watched(end), misbehaving(case.mischief if ranks.rank == 1 else None, end):
        try:
            train(workspace, load_spec(workspace), observer, ranks=ranks)
        except (TrainingError, TrainingInterrupted) as error:
            end.error, end.message = type(error).__name__, str(error)
    end.held_bytes = observer.held_bytes
    (workspace / f"end-{ranks.rank}.json").write_text(json.dumps(asdict(end)))
    if ranks.is_first:
        (workspace / "events.jsonl").write_bytes(b"".join(map(encode, observer.events)))


@contextmanager
def watched(end: End) -> Iterator[None]:
    accumulate = Stepper._accumulate

    def counted(self: Stepper, examples: Any, own: Any, begin: Any) -> Any:
        end.examples.append(len(own))
        return accumulate(self, examples, own, begin)

    with patch.object(Stepper, "_accumulate", counted):
        yield


@contextmanager
def misbehaving(mischief: str | None, end: End) -> Iterator[None]:
    if mischief is None:
        yield
        return
    with patch.object(*{**refusals(end), **mistakes()}[mischief]):
        yield


def refusals(end: End) -> dict[str, Patch]:
    """Return ways to have little memory."""
    score, multiply, go_back = Forward.score, LlamaMLP.forward, FusedLinear.backward

    def refuse(tokens: int) -> None:
        if tokens > FEW_TOKENS:
            end.refused += 1
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    def score_in_little_memory(self: Forward, documents: Any, **caches: Any) -> Any:
        refuse(sum(len(document.input_ids) for document in documents) if len(documents) > 1 else 0)
        return score(self, documents, **caches)

    def multiply_in_little_memory(self: LlamaMLP, x: Any) -> Any:
        refuse(x.shape[1])
        return multiply(self, x)  # type: ignore[no-untyped-call]  # transformers' own

    def go_back_in_little_memory(ctx: Any, gradient: Any) -> Any:
        refuse(gradient.shape[1])
        return go_back(ctx, gradient)

    return {
        "memory": (Forward, "score", score_in_little_memory),
        "memory inside": (LlamaMLP, "forward", multiply_in_little_memory),
        "memory on the way back": (FusedLinear, "backward", go_back_in_little_memory),
    }


def mistakes() -> dict[str, Patch]:
    """Return things that go wrong."""
    learning_rate = AdapterOptimizer.learning_rate

    def raise_something(self: Any, *_: Any) -> Any:
        raise ValueError("nobody foresaw this")

    return {
        "raise": (Forward, "score", raise_something),
        "raise inside": (LlamaMLP, "forward", raise_something),
        "drift": (AdapterOptimizer, "learning_rate", lambda self, step: 1.001 * learning_rate(self, step)),
    }


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))

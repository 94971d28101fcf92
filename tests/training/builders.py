"""Small building blocks of training tests: ragged scores, rows, workspaces, an observer that remembers."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
import torch
from torch import Tensor

from tests.fixtures.tiny_models import reference_to
from worker.training.data.examples import Message
from worker.training.events import Event, MetricsEvent
from worker.training.methods.auto import RunFacts
from worker.training.spec import (
    TRAINING_FILE,
    VALIDATION_FILE,
    EvaluationSettings,
    LoraSettings,
    RuntimeSettings,
    TrainingSpec,
)
from worker.training.types import TokenScores, TokenSequence

E = TypeVar("E", bound=msgspec.Struct)
FACTS = RunFacts(rows=50, model_parameters=135_000_000, context_length=2048)


def scores(*examples: Sequence[float], hidden: Tensor | None = None) -> TokenScores:
    """Return scores whose tokens have these probabilities, example by example."""
    logs = [math.log(p) if p > 0 else -math.inf for example in examples for p in example]
    return log_scores(torch.tensor(logs, dtype=torch.float32), [len(example) for example in examples], hidden)


def log_scores(logprobs: Tensor, lengths: Sequence[int], hidden: Tensor | None = None) -> TokenScores:
    """Return ``logprobs`` cut into examples of ``lengths``."""
    example = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return TokenScores(logprobs, example, torch.tensor(lengths), hidden)


def documents(*lengths: int, seed: int = 0, vocabulary: int = 256) -> list[TokenSequence]:
    """Return random documents with everything from their third token on scored."""
    generator = np.random.default_rng(seed)
    return [
        TokenSequence(
            generator.integers(vocabulary, size=length).astype(np.int32), np.arange(2, length, dtype=np.int32)
        )
        for length in lengths
    ]


def question(text: str) -> list[Message]:
    """Return a prompt of one user turn."""
    return [Message("user", text)]


def sum_rows(count: int) -> list[dict[str, Any]]:
    """Return NLFT rows about sums, every other one wrong and judged."""
    rows: list[dict[str, Any]] = []
    for index in range(count):
        wrong = index % 2
        given = 2 * index + 3 + wrong
        row: dict[str, Any] = {
            "messages": [{"role": "user", "content": f"{index} + {index + 3}?"}],
            "response": f"It is {given}. #### {given}",
            "reference": f"#### {2 * index + 3}",
        }
        rows.append(row | ({"judgment": f"It is {2 * index + 3}."} if wrong else {}))
    return rows


def make_workspace(
    folder: Path,
    model: Path,
    training: Sequence[Mapping[str, Any]],
    validation: Sequence[Mapping[str, Any]] = (),
    **spec: Any,
) -> TrainingSpec:
    """Write the inputs into ``folder`` and return a spec; ``spec`` overrides its fields."""
    for name, rows in ((TRAINING_FILE, training), (VALIDATION_FILE, validation)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields: dict[str, Any] = {
        "job_id": "ftjob-test",
        "base_model": reference_to(model),
        "method": "supervised",
        "hyperparameters": {"n_epochs": 2, "batch_size": 4, "learning_rate": 1e-2},
        "adapter": LoraSettings(r=4),
        "has_validation_file": bool(validation),
        "evaluation": EvaluationSettings(generate=False),
        "runtime": RuntimeSettings(device="cpu", dtype="float32"),
    }
    return TrainingSpec(**(fields | spec))


class RecordingObserver:
    """Remembers events; asks for an early end once a given step was reported."""

    def __init__(self, *, end: Literal["stop", "cancel"] = "stop", after_step: int | None = None) -> None:
        self.events: list[Event] = []
        self._end = end
        self._after_step = after_step

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def stop_requested(self) -> Literal["stop", "cancel"] | None:
        if self._after_step is None:
            return None
        steps = [event.step for event in self.of(MetricsEvent)]
        return self._end if max(steps, default=0) >= self._after_step else None

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

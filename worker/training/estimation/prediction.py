"""Predicts tokens, steps, time and memory of a run from a sample of its rows and the pace of earlier runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from worker.training.building.candidates import Candidate
from worker.training.building.mixture import mix
from worker.training.building.needs import is_rationalized
from worker.training.data.examples import NLFTExample
from worker.training.estimation.workload import has_all, measure_workload
from worker.training.methods import METHODS
from worker.training.methods.auto import RunFacts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.training.data.examples import Example
    from worker.training.data.reader import Row
    from worker.training.estimation.pace import Pace
    from worker.training.estimation.workload import Workload
    from worker.training.methods.base import Hyperparameters, Method
    from worker.training.spec import TrainingSpec

_JUDGMENT_CHARACTERS = 150
_MOST_CANDIDATES = 2000
_OF_KEEPING = {
    "seconds": "; what is saved by keeping hidden states not counted",
    "peak_memory_bytes": "; kept hidden states come on top, in host memory",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """The first ``rows`` of a file that has ``total`` rows."""

    rows: Sequence[Row]
    total: int

    @property
    def scale(self) -> float:
        """Rows of the file for each row here."""
        return self.total / len(self.rows) if self.rows else 0.0

    def limited(self, rows: int) -> Sample:
        """Return the first ``rows`` of this sample."""
        return Sample(self.rows[:rows], self.total)

    @property
    def basis(self) -> str:
        """What a figure that was counted here rests on."""
        return f"all {self.total} rows" if len(self.rows) == self.total else f"the first {len(self.rows)} rows"


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is trained: ``rows`` in the whole file, and examples to count tokens by."""

    method: Method
    hyperparameters: Hyperparameters
    rows: int
    examples: list[Example]
    sampled: int


def predict(
    spec: TrainingSpec, facts: RunFacts, pace: Pace, training: Sample, validation: Sample | None
) -> dict[str, Any]:
    """Return figures by name, each ``{"value", "basis"}``.

    ``rows`` trained, ``steps`` of the optimizer, ``trained_tokens`` (prompt and response, all epochs),
    ``scored_tokens`` (once, without gradient), ``generated_tokens``, ``seconds``, ``peak_memory_bytes``.
    """
    training = training.limited(max(1, _MOST_CANDIDATES // spec.building.rollout.n))
    plan = _plan(spec, facts, pace, training)
    work = measure_workload(plan.method, plan.hyperparameters, plan.examples, pace.scale)
    epochs = plan.hyperparameters.n_epochs
    steps = epochs * math.ceil(plan.rows / plan.hyperparameters.batch_size)
    generated, generated_basis = _count_generated(spec, pace, plan, validation)
    texts = f"{training.basis}, {pace.characters_per_token.value:.2f} characters a token"
    tokens_basis = f"{texts} ({pace.characters_per_token.basis})"
    figures = {
        "rows": _figure(plan.rows, _rows_basis(spec, plan, training, pace)),
        "steps": _figure(steps, f"{epochs} passes over {plan.rows} rows, {plan.hyperparameters.batch_size} a step"),
        "trained_tokens": _figure(work.main * plan.rows * epochs, tokens_basis),
        "scored_tokens": _figure(work.cached_work * plan.rows, tokens_basis),
        "generated_tokens": _figure(generated, generated_basis),
        "longest_sequence": _figure(work.longest, tokens_basis),
        "seconds": _seconds(
            plan,
            work,
            pace,
            generated=generated,
            held_out=validation.total if validation else 0,
            devices=spec.n_gpus,
        ),
        "peak_memory_bytes": _figure(pace.peak_memory_bytes.value, pace.peak_memory_bytes.basis),
    }
    if spec.adapter.cache_frozen_hidden_states:
        for name, told in _OF_KEEPING.items():
            figures[name]["basis"] += told
    return figures


def _plan(spec: TrainingSpec, facts: RunFacts, pace: Pace, training: Sample) -> _Plan:
    method = METHODS[spec.method]
    candidates = [
        one for row in training.rows if isinstance(row.example, NLFTExample) for one in _answered(row, spec, pace)
    ]
    if candidates:
        made = [one for one in candidates if one.is_made]
        kept = mix(candidates, spec.building.settled_mixture, spec.seed, asked=made)
        examples: list[Example] = [one.example for one in kept]
    else:
        examples = [row.example for row in training.rows]
    rows = round(len(examples) * training.scale)
    largest = spec.building.mixture.max_rows
    rows = rows if largest is None else min(rows, largest)
    known = RunFacts(rows, facts.model_parameters, facts.context_length)
    hyperparameters = method.hyperparameters_type.resolve(spec.hyperparameters, known)
    countable = [example for example in examples if has_all(example, method.required_fields)]
    asked = len({one.line for one in candidates if one.is_made})
    guided = sum(one.index == spec.building.rollout.n for one in candidates)
    sampled = asked * spec.building.rollout.n + guided * spec.building.rationalization.n
    return _Plan(method, hyperparameters, max(1, rows), countable, round(sampled * training.scale))


def _answered(row: Row, spec: TrainingSpec, pace: Pace) -> list[Candidate]:
    """Return a row's candidates; a row without a response gets as many of the expected length as are sampled.

    Where none of these is expected to be right, one stands for those written with the reference shown.
    """
    example = row.example
    assert isinstance(example, NLFTExample)
    if example.answer is not None:
        return [Candidate(row.line, 0, example)]
    characters = round(_response_tokens(spec, pace) * pace.characters_per_token.value)
    text = ("word " * characters)[:characters]
    count = spec.building.rollout.n
    right = round(count * (0.5 if pace.base_accuracy is None else pace.base_accuracy.value))
    judgment = None if spec.building.judge is None else "x" * _JUDGMENT_CHARACTERS
    verdicts = dict(enumerate([True] * right + [False] * (count - right)))
    if not right and is_rationalized(example, spec.building):
        replaces_wrong = spec.building.rationalization.replaces_wrong
        verdicts = {count: True} if replaces_wrong else verdicts | {count: True}
    return [
        Candidate(
            row.line,
            index,
            msgspec.structs.replace(example, response=text, correct=is_right, judgment=None if is_right else judgment),
            is_made=True,
        )
        for index, is_right in verdicts.items()
    ]


def _response_tokens(spec: TrainingSpec, pace: Pace) -> float:
    longest = spec.building.rollout.max_new_tokens
    return longest / 2 if pace.response_tokens is None else min(longest, pace.response_tokens.value)


def _count_generated(spec: TrainingSpec, pace: Pace, plan: _Plan, validation: Sample | None) -> tuple[float, str]:
    length = _response_tokens(spec, pace)
    asked = 0
    if validation is not None and spec.evaluation.generate:
        answerable = sum(bool(getattr(row.example, "reference", None)) for row in validation.rows)
        asked = min(spec.evaluation.max_examples, round(answerable * validation.scale))
    known = "half of rollout.max_new_tokens" if pace.response_tokens is None else pace.response_tokens.basis
    told = f"{plan.sampled} responses to train and {2 * asked} answers to evaluate, {length:.0f} tokens each ({known})"
    evaluated = 2 * asked * min(length, spec.evaluation.max_new_tokens)
    return plan.sampled * length + evaluated, told


def _rows_basis(spec: TrainingSpec, plan: _Plan, training: Sample, pace: Pace) -> str:
    if not plan.sampled:
        return f"the training file, {training.basis}"
    right = "half of them right" if pace.base_accuracy is None else f"{pace.base_accuracy.value:.0%} of them right"
    return (
        f"{spec.building.rollout.n} responses a question ({right}), the mixture applied; responses that are cut off or "
        "repeat another are left out"
    )


def _seconds(
    plan: _Plan, work: Workload, pace: Pace, *, generated: float, held_out: int, devices: int
) -> dict[str, Any]:
    epochs = plan.hyperparameters.n_epochs
    per_work = pace.seconds_per_work.value / devices
    parts = {
        "generation": generated * pace.seconds_per_generated.value,
        "scoring": (plan.rows + held_out) * work.cached_work * per_work,
        "training": epochs * plan.rows * work.step_work * per_work,
        "validation": epochs * held_out * work.main * per_work,
        "other": pace.other_seconds.value,
    }
    basis = f"speed: {pace.seconds_per_work.basis}; waiting for a worker not included"
    return {**_figure(sum(parts.values()), basis), "parts": {name: round(value, 1) for name, value in parts.items()}}


def _figure(value: float, basis: str) -> dict[str, Any]:
    return {"value": round(value, 1) if isinstance(value, float) and value < 1000 else round(value), "basis": basis}

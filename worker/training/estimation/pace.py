"""How fast and how large runs on a base model are: learned from the finished ones, guessed until there are any."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from worker.training.estimation.workload import TextScale

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

JOBS_ON_BASE = "jobs_on_base"
"""Figure of an outcome: how many jobs its process began with. Times and memory are then not the job's own."""
HIDDEN_STATE_BYTES = "hidden_state_bytes"
"""Figure of an outcome: what the job kept of hidden states. Its steps were faster for that, and its memory larger."""
_OF_KEEPING = frozenset({"seconds_per_work", "peak_memory_bytes"})
_OF_THE_PROCESS = frozenset({"seconds_per_work", "seconds_per_generated", "other_seconds", "peak_memory_bytes"})
_CPU_FLOPS = 6e10
_GENERATION_FACTOR = 6.0
_BYTES_PER_WEIGHT = 4
_PROCESS_BYTES = 900_000_000
_WORK_BYTES_PER_WEIGHT = 3.0
_GUESSED = "guessed: no job on this base model has finished yet"


@dataclass(frozen=True, slots=True)
class Learned:
    """A figure and what it rests on."""

    value: float
    basis: str


@dataclass(frozen=True, slots=True)
class Pace:
    """What a prediction multiplies with.

    Attributes:
        characters_per_token: Of the base model's tokenizer.
        template_tokens: What its chat template adds to a sequence.
        seconds_per_work: Seconds a token of a pass without gradient; a training pass counts thrice.
        seconds_per_generated: Seconds a token sampled from the base model, batches included.
        response_tokens: Tokens of a sampled response; None: nobody knows.
        base_accuracy: Share of right ones among sampled responses; None: nobody knows.
        other_seconds: Loading, saving, everything that does not grow with the rows.
        peak_memory_bytes: Of the trainer's process, or of its GPU.
    """

    characters_per_token: Learned
    template_tokens: Learned
    seconds_per_work: Learned
    seconds_per_generated: Learned
    response_tokens: Learned | None
    base_accuracy: Learned | None
    other_seconds: Learned
    peak_memory_bytes: Learned

    @property
    def scale(self) -> TextScale:
        """How text becomes tokens."""
        return TextScale(self.characters_per_token.value, self.template_tokens.value)


def learn_pace(outcomes: Sequence[Mapping[str, float]], model_parameters: int) -> Pace:
    """Return the pace of runs on a base model.

    Args:
        outcomes: ``Usage`` figures of finished runs on it, as they were stored.
        model_parameters: Of the base model, for guesses.
    """
    work_seconds = 2 * model_parameters / _CPU_FLOPS
    guesses = {
        "characters_per_token": 3.0,
        "template_tokens": 10.0,
        "seconds_per_work": work_seconds,
        "seconds_per_generated": work_seconds * _GENERATION_FACTOR,
        "other_seconds": 15.0,
        "peak_memory_bytes": _PROCESS_BYTES + model_parameters * (_BYTES_PER_WEIGHT + _WORK_BYTES_PER_WEIGHT),
    }
    learned = {name: _learn(outcomes, name) or Learned(guess, _GUESSED) for name, guess in guesses.items()}
    return Pace(
        **learned,
        response_tokens=_learn(outcomes, "response_tokens"),
        base_accuracy=_learn(outcomes, "base_accuracy"),
    )


def _learn(outcomes: Sequence[Mapping[str, float]], name: str) -> Learned | None:
    known = [value for outcome in outcomes if _teaches(outcome, name) and (value := outcome.get(name)) is not None]
    if not known:
        return None
    value = max(known) if name == "peak_memory_bytes" else median(known)
    kind = "largest" if name == "peak_memory_bytes" else "median"
    return Learned(value, f"{kind} of {len(known)} finished job(s) on this base model")


def _teaches(outcome: Mapping[str, float], name: str) -> bool:
    """Return whether this figure of a job is that of any job on its base model."""
    is_of_others = name in _OF_THE_PROCESS and outcome.get(JOBS_ON_BASE, 1) != 1
    return not is_of_others and not (name in _OF_KEEPING and HIDDEN_STATE_BYTES in outcome)

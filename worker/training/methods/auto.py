"""What "auto" stands for in a run, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

AUTO = "auto"
_FEWEST_STEPS = 60
_MOST_EPOCHS = 25
_BATCH_SIZES = ((128, 4), (1024, 8), (8192, 16), (math.inf, 32))
_RATE_EXPONENT = math.log(10) / math.log(8e9 / 135e6)
_LONGEST_SEQUENCE = 2048


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What "auto" may depend on.

    Attributes:
        rows: Training rows.
        model_parameters: Of the base model.
        context_length: Of the base model, in tokens.
        rows_are_final: False while responses are yet to be sampled or rows to be left out; ``rows`` is then a guess.
    """

    rows: int
    model_parameters: int
    context_length: int
    rows_are_final: bool = True


@dataclass(frozen=True, slots=True)
class Choice:
    """A value that "auto" stands for.

    Attributes:
        value: Of the hyperparameter.
        reason: What it follows from, for the job's owner: no sentence, no full stop.
        from_rows: It depends on the rows, so it is not known before they are built.
    """

    value: Any
    reason: str
    from_rows: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return value and reason."""
        return {"value": self.value, "reason": self.reason}


def choose(facts: RunFacts) -> dict[str, Choice]:
    """Return what "auto" stands for in every method.

    Few rows are repeated until about sixty optimizer steps are made (at most 25 passes). The learning rate falls with
    the size of the base model, from 1e-3 at 135 million parameters to 1e-4 at 8 billion.
    """
    batch_size = next(size for most_rows, size in _BATCH_SIZES if facts.rows <= most_rows)
    steps_per_epoch = max(1, math.ceil(facts.rows / batch_size))
    rate = 1e-3 * (135e6 / max(1, facts.model_parameters)) ** _RATE_EXPONENT
    longest = max(8, min(_LONGEST_SEQUENCE, facts.context_length))
    limit = "context of the base model" if facts.context_length <= _LONGEST_SEQUENCE else "usual limit"
    return {
        "n_epochs": _choose_epochs(facts, steps_per_epoch),
        "batch_size": Choice(batch_size, f"{facts.rows} training rows", from_rows=True),
        "learning_rate": Choice(
            float(f"{min(2e-3, max(2e-5, rate)):.1e}"), f"base model of {_millions(facts.model_parameters)} parameters"
        ),
        "max_seq_length": Choice(longest, f"{limit}: {longest} tokens"),
    }


def values(choices: Mapping[str, Choice]) -> dict[str, Any]:
    """Return the values alone."""
    return {name: choice.value for name, choice in choices.items()}


def _choose_epochs(facts: RunFacts, steps_per_epoch: int) -> Choice:
    least = 3 if facts.rows <= 1000 else 2 if facts.rows <= 5000 else 1
    wanted = round(_FEWEST_STEPS / steps_per_epoch)
    if wanted < least:
        return Choice(least, f"{facts.rows} training rows: {steps_per_epoch} steps a pass", True)
    epochs = min(_MOST_EPOCHS, wanted)
    return Choice(epochs, f"{steps_per_epoch} steps a pass, repeated to about {epochs * steps_per_epoch}", True)


def _millions(count: int) -> str:
    return f"{count / 1e9:.1f} billion" if count >= 1e9 else f"{count / 1e6:.0f} million"

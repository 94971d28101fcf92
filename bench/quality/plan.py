"""Gives every arm the same number of optimizer steps, however few rows it has.

The trainer counts passes over the file, so a file of ``size`` rows for ``n_epochs`` passes is sought with
``ceil(size / batch) * n_epochs`` equal to the wanted steps. Rows are repeated as evenly as that allows; which ones are
repeated once more is drawn from the seed and depends on the number of rows only: arms of equal size repeat the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
MOST_EPOCHS = 50
# Each row of the file is scored under guidance once, so a longer file costs time.
_PREFERRED_SIZE = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """A file of ``size`` rows, passed over ``n_epochs`` times."""

    size: int
    n_epochs: int

    def unevenness(self, rows: int) -> float:
        """Return the standard deviation of the rows' repetitions over their mean."""
        extra = self.size % rows / rows
        return float((extra * (1 - extra)) ** 0.5 * rows / self.size)


def plan(rows: int, *, steps: int, batch_size: int) -> Plan:
    """Return the most even way to make ``steps`` steps of ``batch_size`` on ``rows`` rows, short files preferred.

    Raises:
        ValueError: There are no rows, or more than the steps can take.
    """
    if rows < 1 or rows > steps * batch_size:
        message = f"{rows} rows cannot be trained in {steps} steps of {batch_size}"
        raise ValueError(message)
    epochs = [n for n in range(1, min(steps, MOST_EPOCHS) + 1) if steps % n == 0]
    plans = [Plan(steps // n * batch_size, n) for n in epochs if steps // n * batch_size >= rows]
    limit = max(_PREFERRED_SIZE, min(candidate.size for candidate in plans))
    short = [candidate for candidate in plans if candidate.size <= limit]
    return min(short, key=lambda candidate: (round(candidate.unevenness(rows), 3), candidate.size))


def repeat(rows: Sequence[T], size: int, seed: int) -> list[T]:
    """Return ``size`` rows: all of ``rows`` as often as they fit, then some of them once more."""
    order = list(range(len(rows)))
    Random(seed).shuffle(order)
    indices = [*range(len(rows))] * (size // len(rows)) + order[: size % len(rows)]
    return [rows[index] for index in indices]

"""Which training rows cost most loss: ``row_losses.csv``, dearest first. Free of torch."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.training.explaining.pinning import is_wrong

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from worker.training.data.examples import Example
    from worker.training.data.reader import Row
    from worker.training.engine.progress import RowLoss

ROW_LOSSES_FILE = "row_losses.csv"
_COLUMNS = ("line", "correct", "passes", "first_loss", "last_loss", "mean_loss", "share_of_loss")


@dataclass(frozen=True, slots=True)
class RowCost:
    """What a row of 1-based ``line`` cost: losses in nats as the method computes them, its share of the whole run's."""

    line: int
    example: Example
    passes: int
    first_loss: float
    last_loss: float
    mean_loss: float
    share: float

    @property
    def is_right(self) -> bool:
        """Whether the row's response counts as right; rows of formats that know no right or wrong do."""
        return not is_wrong(self.example)


def rank_rows(rows: Sequence[Row], losses: Mapping[int, RowLoss]) -> list[RowCost]:
    """Return what each trained row cost, highest mean loss first; ``losses`` are by index in ``rows``."""
    whole = sum(loss.total for loss in losses.values()) or 1.0
    costs = [
        RowCost(
            line=rows[index].line,
            example=rows[index].example,
            passes=loss.passes,
            first_loss=loss.first,
            last_loss=loss.last,
            mean_loss=loss.total / loss.passes,
            share=loss.total / whole,
        )
        for index, loss in losses.items()
    ]
    return sorted(costs, key=lambda cost: (-cost.mean_loss, cost.line))


def write_row_losses(path: Path, costs: Sequence[RowCost]) -> None:
    """Write ``costs`` as CSV in their order."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for cost in costs:
            verdict = "true" if cost.is_right else "false"
            figures = (cost.first_loss, cost.last_loss, cost.mean_loss, cost.share)
            writer.writerow([cost.line, verdict, cost.passes, *figures])

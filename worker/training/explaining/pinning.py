"""Which training rows are followed through a run. Free of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.training.data.examples import NLFTExample
from worker.training.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.training.data.examples import Example
    from worker.training.data.reader import Row
    from worker.training.spec import SaliencySettings


def choose_pinned(rows: Sequence[Row], settings: SaliencySettings, method: str) -> list[int]:
    """Return the indices of the rows to follow, ascending.

    Named lines where the settings name any; else right and wrong ones spread over the file, those with a judgment
    first among the wrong. Rows of formats that know no right or wrong count as right.

    Raises:
        SpecError: A named line holds no training row.
    """
    if settings.lines is not None:
        return _find_lines(rows, settings.lines, method)
    right = [index for index, row in enumerate(rows) if not is_wrong(row.example)]
    wrong = [index for index, row in enumerate(rows) if is_wrong(row.example)]
    judged = [index for index in wrong if getattr(rows[index].example, "judgment", None)]
    criticised = _spread(judged, settings.wrong)
    others = [index for index in wrong if index not in judged]
    return sorted([*_spread(right, settings.right), *criticised, *_spread(others, settings.wrong - len(criticised))])


def is_wrong(example: Example) -> bool:
    """Return whether the row's response counts as wrong."""
    return isinstance(example, NLFTExample) and not example.is_right


def _find_lines(rows: Sequence[Row], lines: Sequence[int], method: str) -> list[int]:
    places = {row.line: index for index, row in enumerate(rows)}
    missing = [line for line in lines if line not in places]
    if missing:
        place = f"method.{method}.saliency.lines"
        raise SpecError(f"{place}: the training data has no row on line {missing[0]}", place)
    return sorted({places[line] for line in lines})


def _spread(indices: Sequence[int], count: int) -> list[int]:
    """Return at most ``count`` of ``indices``, evenly spaced."""
    count = min(count, len(indices))
    return [indices[(2 * index + 1) * len(indices) // (2 * count)] for index in range(count)]

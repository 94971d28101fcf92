"""Prints figures for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench.trainer.contest import NOT_RUN

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from bench.trainer.bars import Verdict
    from bench.trainer.record import Line

_HEADS = ("variant", "s/step", "range", "us/token", "x ours", "by FLOPs", "GFLOP/s", "of peak", "MiB", "rounds")


def render_lines(lines: Sequence[Line]) -> str:
    """Return the table of one point; a contestant that failed or was not run has its reason at the end."""
    rows = [_HEADS, *(_cells(line) for line in lines if not line.error)]
    failures = [f"{line.title}: {_reason(line.error)}" for line in lines if line.error]
    return "\n".join([_align(rows), *failures])


def render_verdicts(verdicts: Iterable[Verdict]) -> str:
    """Return the table of bars."""
    rows = [("bar", "limit", "reached", "")]
    for verdict in verdicts:
        sign = ">=" if verdict.bar.sense == "at least" else "<="
        rows.append((verdict.bar.text, f"{sign} {verdict.bar.limit:g}", _number(verdict.value, 3), verdict.state))
    return _align(rows, texts=(0, 3))


def _reason(error: str) -> str:
    last = error.splitlines()[-1]
    return last if last.startswith(NOT_RUN) else f"could not be measured: {last}"


def _cells(line: Line) -> tuple[str, ...]:
    return (
        line.title,
        _number(line.seconds, 3),
        f"{_number(line.fastest, 2)}-{_number(line.slowest, 2)}",
        _number(line.microseconds_per_token, 0),
        _number(line.ratio, 3),
        _number(line.predicted, 3),
        _number(line.gflops, 1),
        _number(line.share_of_peak, 3),
        _number(line.peak_mib, 0),
        str(line.rounds),
    )


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _align(rows: Sequence[Sequence[str]], texts: Collection[int] = (0,)) -> str:
    """Return ``rows`` in columns, those of the numbers in ``texts`` to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )

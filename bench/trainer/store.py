"""Keeps figures in files: a run of one point leaves those of the others as they are, so machines can be combined.

``POINT.csv`` is the table of a point, ``POINT.json`` its rounds with machine class, date and commit. Figures beside the
contests have a JSON file each, and ``bars.json`` judges all that is there.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bench.trainer.bars import Figures, judge
from bench.trainer.contest import Measurement
from bench.trainer.points import POINTS
from bench.trainer.record import Contest, write_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_BARS = "bars"


def save_contest(folder: Path, contest: Contest, facts: Mapping[str, Any]) -> None:
    """Write the table and the rounds of a contest; ``facts`` say what it ran on."""
    name = contest.point.name
    write_lines(folder / f"{name}.csv", contest.lines())
    _write(folder, name, {**facts, "rounds": {key: asdict(found) for key, found in contest.measurements.items()}})


def save_figures(folder: Path, name: str, values: Mapping[str, Sequence[float]], facts: Mapping[str, Any]) -> None:
    """Write figures that belong together, such as those of one ``name``'s repetitions."""
    _write(folder, name, {**facts, "values": values})


def save_bars(folder: Path) -> Figures:
    """Judge what is in ``folder``, keep the verdicts beside it, and return the figures."""
    contests: dict[str, Contest] = {}
    others: dict[str, Sequence[float]] = {}
    sources = {}
    for path in sorted(folder.glob("*.json")):
        if path.stem == _BARS:
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        sources[path.stem] = {name: found[name] for name in ("date", "commit", "machine", "gpu")}
        others |= found.get("values", {})
        if "rounds" in found:
            rounds = {name: Measurement(**figures) for name, figures in found["rounds"].items()}
            contests[path.stem] = Contest(POINTS[path.stem], rounds)
    figures = Figures(contests, others)
    _write(folder, _BARS, {"bars": [verdict.to_json() for verdict in judge(figures)], "from": sources})
    return figures


def _write(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

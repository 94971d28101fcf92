"""The trainer's benchmark: ``make bench-trainer``.

    python -m bench.trainer.run                                             everything that this machine can run
    python -m bench.trainer.run --points bench --variants products,supervised --repeats 3

Contests run at every point whose device is here, then the start of a job and the generation of responses are timed.
The table goes to the screen, its figures to ``bench/results/trainer`` after every contest.
"""

from __future__ import annotations

import worker.training.environment  # noqa: F401 # isort: skip - read when torch is imported

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import IO, TYPE_CHECKING, Any

import torch

from bench.trainer import generation, machine, start_up
from bench.trainer.bars import Figures, judge
from bench.trainer.contest import compete
from bench.trainer.points import MEASURED, POINTS, ROOT
from bench.trainer.record import Contest, write_json, write_lines
from bench.trainer.table import render_lines, render_verdicts
from bench.trainer.variants import VARIANTS

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = ROOT / "bench" / "results" / "trainer"
OTHERS = ("start_up", "generation")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line chooses, print the tables and write the results."""
    options = _parse(arguments)
    facts = machine.describe() | {"repeats": options.repeats}
    contests: dict[str, Contest] = {}
    others: dict[str, list[float]] = {}
    for name in options.points:
        point = POINTS[name]
        if point.device == "cuda" and not torch.cuda.is_available():
            print(f"\n{point.title}: open, needs a CUDA device: make bench-trainer POINTS={name}", flush=True)
            continue
        chosen = [variant for variant in options.variants if name in VARIANTS[variant].points or name == "tiny"]
        with tempfile.TemporaryDirectory() as folder:
            for measured in compete(name, chosen, rounds=options.repeats, open_log=_logs(Path(folder)), tell=_tell):
                contests[name] = Contest(point, measured)
                _write(options.results, facts, contests, others)
        print(f"\n{point.title} ({point.precision()})\n{render_lines(contests[name].lines())}\n", flush=True)
    for name in options.others:
        others |= _measure_other(name, options.repeats)
    for name, values in others.items():
        print(f"{name}: {median(values):.2f} ({', '.join(f'{value:.2f}' for value in values)})", flush=True)
    _write(options.results, facts, contests, others)
    print(f"\n{render_verdicts(judge(Figures(contests, others)))}", flush=True)


def _measure_other(name: str, repeats: int) -> dict[str, list[float]]:
    if name == "generation":
        return {name: generation.measure_ratios(repeats)}
    spent = [start_up.measure() for _ in range(repeats)]
    return {name: [one.wall for one in spent], f"{name}_cpu": [one.cpu for one in spent]}


def _write(folder: Path, facts: dict[str, Any], contests: dict[str, Contest], others: dict[str, list[float]]) -> None:
    lines = [line for contest in contests.values() for line in contest.lines()]
    write_lines(folder / "steps.csv", lines)
    verdicts = [verdict.to_json() for verdict in judge(Figures(contests, others))]
    rounds = {
        name: {variant: asdict(found) for variant, found in contest.measurements.items()}
        for name, contest in contests.items()
    }
    write_json(folder / "run.json", facts | {"bars": verdicts, "others": others, "rounds": rounds})


def _logs(folder: Path) -> Any:
    def open_log(variant: str) -> IO[str]:
        return (folder / f"{variant}.log").open("w+", encoding="utf-8")

    return open_log


def _tell(line: str) -> None:
    print(f"  {line}", flush=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    def names(known: Sequence[str]) -> Any:
        def split(text: str) -> list[str]:
            unknown = [name for name in text.split(",") if name and name not in known]
            if unknown:
                raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(known)}")
            return [name for name in known if name in text.split(",")]

        return split

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds of every contest")
    parser.add_argument("--points", type=names(list(POINTS)), default=list(MEASURED))
    parser.add_argument("--variants", type=names(list(VARIANTS)), default=list(VARIANTS))
    parser.add_argument("--others", type=names(OTHERS), default=list(OTHERS), help="figures beside the contests")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the records")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

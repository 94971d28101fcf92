"""The trainer's benchmark: ``make bench-trainer``.

    python -m bench.trainer.run                                             everything that this machine can run
    python -m bench.trainer.run --points bench --variants products,supervised --repeats 3

Contests run at every point whose device is here, then the start of a job and the generation of responses are timed.
Tables go to the screen, figures to ``bench/results/trainer`` after every round.
"""

from __future__ import annotations

import worker.training.environment  # noqa: F401 # isort: skip - read when torch is imported

import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import IO, TYPE_CHECKING, Any

import torch

from bench.trainer import generation, machine, start_up
from bench.trainer.bars import judge
from bench.trainer.contest import compete
from bench.trainer.points import MEASURED, POINTS, ROOT
from bench.trainer.record import Contest
from bench.trainer.store import save_bars, save_contest, save_figures
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
    for name in options.points:
        point = POINTS[name]
        if point.device == "cuda" and not torch.cuda.is_available():
            print(f"\n{point.title}: open, needs a CUDA device: make bench-trainer POINTS={name}", flush=True)
            continue
        chosen = [variant for variant in options.variants if name in VARIANTS[variant].points or name == "tiny"]
        print(f"\n{point.title} ({point.precision()})", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            for measured in compete(name, chosen, rounds=options.repeats, open_log=_logs(Path(folder)), tell=_tell):
                contest = Contest(point, measured)
                save_contest(options.results, contest, facts)
        print(render_lines(contest.lines()), flush=True)
    for name in options.others:
        values = _measure_other(name, options.repeats)
        save_figures(options.results, name, values, facts)
        for key, found in values.items():
            print(f"\n{key}: {median(found):.2f} ({', '.join(f'{value:.2f}' for value in found)})", flush=True)
    print(f"\n{render_verdicts(judge(save_bars(options.results)))}", flush=True)


def _measure_other(name: str, repeats: int) -> dict[str, list[float]]:
    if name == "generation":
        return {name: generation.measure_ratios(repeats)}
    pairs = [(start_up.measure_standby(), start_up.measure_own()) for _ in range(repeats)]
    waited, own = zip(*pairs, strict=True)
    return {
        name: [one.wall for one in waited],
        f"{name}_cpu": [one.cpu for one in waited],
        f"{name}_own": [one.wall for one in own],
        f"{name}_own_cpu": [one.cpu for one in own],
    }


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

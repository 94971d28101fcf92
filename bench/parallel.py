"""How much of two devices do two processes use? Tokens a second of N processes over N times those of one.

    python -m bench.parallel                       # two processes on the CPU over gloo, a thread each
    python -m bench.parallel --point gpu-8b --ranks 4  # on GPUs over NCCL; points as in bench.trainer

Every process loads the model once. Then rounds of two steps on the same rows follow in turn: one by the first process
while the others wait, one by all together. The ratio of wall times means something only where every process has a core
or a device to itself; the ratio of CPU times, which counts what sharing a step adds to the work, on a busy machine too.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import worker.ranks
from bench.trainer.machine import describe
from bench.trainer.ours import set_up
from bench.trainer.points import POINTS
from worker.training.engine.parallel import Ranks
from worker.training.engine.step import Stepper

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.trainer.ours import Trainer

RESULTS = Path(__file__).parent / "results" / "parallel.csv"
ONLINE = {"scoring": "online"}


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of one step: on the clock, and of CPU in all processes together."""

    wall: float
    cpu: float


def main() -> None:
    """Start the processes, or be one of them."""
    options = _parse()
    if "RANK" in os.environ:
        _measure(options)
        return
    command = [sys.executable, "-m", "bench.parallel", *sys.argv[1:]]
    launch = [sys.executable, "-I", "-S", str(worker.ranks.__file__), str(options.ranks), *command]
    os.execve(sys.executable, launch, {"OMP_NUM_THREADS": "1", **os.environ})


def _measure(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    ranks = Ranks.from_environment(os.environ)
    with ranks.connected():
        rows = []
        for method, settings in (("supervised", {}), ("nlft", ONLINE)):
            trainer = set_up(replace(POINTS[options.point], copies=options.copies), method, settings)
            costs = _contest(trainer, ranks, options.repeats)
            if ranks.is_first:
                rows.append(_row(options, method, trainer, costs))
        if ranks.is_first:
            _tell(rows)


def _contest(trainer: Trainer, ranks: Ranks, repeats: int) -> list[tuple[Cost, Cost]]:
    """Return, round by round, what a step costs one process and what it costs all of them."""
    together = Stepper(trainer.scorer, trainer.method, trainer.hyperparameters, ranks)

    def share(step: int) -> None:
        together.train(trainer.examples, trainer.optimizer, step, lambda: None)

    costs = []
    with trainer.scorer.attention():
        for step in range(1, repeats + 2):
            alone = _time(trainer.train if ranks.is_first else _wait, step, ranks)
            costs.append((alone, _time(share, step, ranks)))
    return costs[1:]


def _wait(_step: int) -> None:
    pass


def _time(work: Callable[[int], None], step: int, ranks: Ranks) -> Cost:
    """Return what ``work`` costs from a common start to the end of the last process."""
    ranks.gather(lambda: None)
    wall, cpu = time.perf_counter(), time.process_time()
    work(step)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    spent = ranks.gather(lambda: time.process_time() - cpu)
    return Cost(time.perf_counter() - wall, sum(spent))


def _row(
    options: argparse.Namespace, method: str, trainer: Trainer, costs: list[tuple[Cost, Cost]]
) -> dict[str, str | int | float]:
    main = [scoring_pass for scoring_pass in trainer.method.passes(trainer.hyperparameters) if scoring_pass.with_grad]
    tokens = sum(example.tokens(main[:1]) for example in trainer.examples)
    alone, together = (statistics.median(pair[index].wall for pair in costs) for index in (0, 1))
    machine = describe()
    return {
        "date": machine["date"],
        "machine": str(machine["machine"]),
        "load": machine["load"],
        "point": options.point,
        "method": method,
        "processes": options.ranks,
        "tokens": tokens,
        "tokens_per_second_alone": round(tokens / alone, 1),
        "tokens_per_second_together": round(tokens / together, 1),
        "wall_efficiency": round(statistics.median(a.wall / b.wall for a, b in costs) / options.ranks, 3),
        "cpu_efficiency": round(statistics.median(a.cpu / b.cpu for a, b in costs), 3),
        "rounds": len(costs),
    }


def _tell(rows: list[dict[str, str | int | float]]) -> None:
    for row in rows:
        print(
            f"{row['method']}: {row['tokens_per_second_alone']} tokens/s alone, "
            f"{row['tokens_per_second_together']} by {row['processes']}; of their time on the clock "
            f"{row['wall_efficiency']:.2f} is used (load {row['load']}), of their CPU time {row['cpu_efficiency']:.2f}"
        )
    is_new = not RESULTS.exists()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Tokens a second of several processes over those of one.")
    parser.add_argument("--ranks", type=int, default=2, help="processes, one a device")
    parser.add_argument("--point", choices=sorted(POINTS), default="bench")
    parser.add_argument("--copies", type=int, default=2, help="how often the rows of the point are repeated in a step")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()

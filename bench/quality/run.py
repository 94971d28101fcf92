"""Runs the study's queue; what is finished is skipped, so it can be stopped and started at any time.

    python -m bench.quality.run                              the whole queue, seed by seed
    python -m bench.quality.run --table rollouts4            the arms of one table
    python -m bench.quality.run --arms nlft,nlft_online --seeds 0,1

A second process may run beside the first one: they share the queue.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from typing import TYPE_CHECKING

from transformers.utils import logging as transformers_logging

from bench.quality.arms import ARMS
from bench.quality.base import make_base
from bench.quality.comparisons import QUEUE, SEEDS, TABLES
from bench.quality.experiment import run
from bench.quality.setting import BASE_MODEL, reference_to
from bench.quality.store import Store
from bench.quality.word_problems import STUDY
from worker.training.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from bench.quality.arms import Arm
    from bench.quality.study import Study
    from worker.training.spec import BaseModelRef


def order(arms: Mapping[str, Arm], groups: Iterable[Sequence[str]], seeds: Sequence[int]) -> Iterator[tuple[Arm, int]]:
    """Yield the runs of each group of ``arms``, seed by seed; the untrained base model runs once."""
    for group in groups:
        for seed in seeds:
            for arm in (arms[name] for name in group):
                if arm.method or seed == seeds[0]:
                    yield arm, (seed if arm.method else 0)


def work_off(study: Study, runs: Iterable[tuple[Arm, int]], base: BaseModelRef) -> None:
    """Make every run that has no record yet."""
    store = Store(study.setting.results, study.setting.work)
    for arm, seed in runs:
        with store.claim(arm.name, seed) as is_mine:
            if not is_mine or store.is_finished(arm.name, seed, arm.fingerprint(base.digest)):
                continue
            _tell(f"{arm.name} seed {seed} ...")
            started = time.monotonic()
            try:
                record, answers, details = run(study, arm, base, seed)
            except (ValueError, DatasetError) as error:
                _tell(f"{arm.name} seed {seed} cannot be run: {error}")
                continue
            store.add(record, answers, details)
            _tell(
                f"{arm.name} seed {seed}: {record.accuracy:.1%}  rows {record.rows} ({record.right_rows} right)  "
                f"steps {record.steps}  loss {record.loss.get('first', 0):.3f} -> {record.loss.get('last', 0):.3f}  "
                f"cut off {record.unfinished}  CPU {record.train_cpu_seconds:.0f} + {record.answer_cpu_seconds:.0f} s  "
                f"wall {time.monotonic() - started:.0f} s"
            )


def _tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


def be_quiet() -> None:
    """Keep libraries from writing between the lines that tell of runs."""
    transformers_logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)


def main() -> None:
    """Run what the command line chooses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=TABLES, help="the arms of this table")
    parser.add_argument("--arms", help="names of arms, separated by commas")
    parser.add_argument("--seeds", help="data seeds, separated by commas; default: those of the table")
    options = parser.parse_args()
    be_quiet()
    make_base()
    groups, seeds = QUEUE, SEEDS
    if options.table:
        groups, seeds = (TABLES[options.table].arms,), TABLES[options.table].seeds
    if options.arms:
        groups = (tuple(options.arms.split(",")),)
    unknown = [name for group in groups for name in group if name not in ARMS]
    if unknown:
        sys.exit(f"no such arm: {', '.join(unknown)}; there are {', '.join(ARMS)}")
    if options.seeds:
        seeds = tuple(int(seed) for seed in options.seeds.split(","))
    work_off(STUDY, order(ARMS, groups, seeds), reference_to(BASE_MODEL))
    _tell("done")


if __name__ == "__main__":
    main()

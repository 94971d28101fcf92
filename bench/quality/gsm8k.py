"""The study on GSM8K (Cobbe et al. 2021, https://arxiv.org/abs/2110.14168) with any base model.

    python -m bench.quality.gsm8k DATA MODEL                                   everything, as large as the paper's
    python -m bench.quality.gsm8k DATA MODEL --sizes 25,50 --arms nlft,supervised_right --seeds 2 --problems 200

DATA is the folder of `train.jsonl` and `test.jsonl` from openai/grade-school-math, MODEL a Hugging Face folder. What is
finished is skipped, so it can be stopped and started at any time, and run again with more seeds, sizes or arms.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from bench.quality.arms import ARMS, BASE, BASE_SHOWN, Arm
from bench.quality.comparisons import SEEDS, Table
from bench.quality.run import be_quiet, order, work_off
from bench.quality.setting import RESULTS, WORK, Setting, answers, runtime
from bench.quality.store import Store
from bench.quality.study import Study
from bench.quality.tables import current, publish
from examples.word_problems.families import Problem
from examples.word_problems.generate import INSTRUCTION
from worker.training.model.base_model import find_device, find_dtype
from worker.training.model.model_folder import model_digest
from worker.training.spec import BaseModelRef

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from worker.training.spec import RuntimeSettings

SIZES = (25, 50, 100, 200, 400, 600, 800)
# The arms of the word problems that are run at every size.
COMPARED = (
    "supervised_rollouts",
    "supervised_right",
    "supervised_references",
    "nlft",
    "nlft_references",
    "nlft_references_and_wrong",
    "nlft_right_or_references",
    "nlft_paper",
)
_UNTRAINED = (Arm(BASE, ""), Arm(BASE_SHOWN, "", shown="reference"))
_CALCULATION = re.compile(r"<<.*?>>")


def read_problems(file: Path) -> list[Problem]:
    """Return the problems of ``file``, without marks for a calculator; families are numbers of steps."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [
        Problem(
            family=f"{len(row['answer'].splitlines()) - 1} steps",
            question=f"{row['question'].strip()}\n\n{INSTRUCTION}",
            solution=_CALCULATION.sub("", row["answer"]).strip(),
        )
        for row in rows
    ]


def make_steps(questions: int) -> int:
    """Return the optimizer steps of every arm on so many questions: sixty, or enough for three passes in fours."""
    return max(60, 3 * questions // 4)


def make_arms(sizes: Sequence[int], conditions: Mapping[str, Any], steps: int | None = None) -> dict[str, Arm]:
    """Return the untrained arms and those of every size by name; a given number of ``steps`` is that of every size."""
    trained = [
        replace(
            ARMS[name],
            name=f"{name}_{questions}",
            questions=questions,
            hyperparameters={"learning_rate": "auto", **ARMS[name].hyperparameters},
            steps=steps or make_steps(questions),
        )
        for questions in sizes
        for name in COMPARED
    ]
    return {arm.name: replace(arm, conditions=conditions) for arm in (*_UNTRAINED, *trained)}


def make_tables(sizes: Sequence[int], seeds: Sequence[int]) -> dict[str, Table]:
    """Return a table of each size by name."""
    tables = [
        Table(
            f"gsm8k_{questions}",
            f"GSM8K, {questions} questions, one rollout each",
            (BASE, BASE_SHOWN, *(f"{name}_{questions}" for name in COMPARED)),
            against=f"nlft_{questions}",
            seeds=tuple(seeds),
        )
        for questions in sizes
    ]
    return {table.name: table for table in tables}


def make_setting(model: str, computing: RuntimeSettings, *, longest: int, at_a_time: int) -> Setting:
    """Return how the model called ``model`` is run, its precision settled; what it answers is kept apart by that."""
    dtype = str(find_dtype(computing.dtype, find_device(computing.device))).removeprefix("torch.")
    return Setting(
        answers(longest=longest, at_a_time=at_a_time),
        computing.model_copy(update={"dtype": dtype}),
        WORK / "gsm8k" / model / f"{dtype}-{longest}-{at_a_time}",
        RESULTS / "gsm8k" / model,
    )


def make_study(
    data: Path,
    setting: Setting,
    *,
    sizes: Sequence[int] = SIZES,
    seeds: Sequence[int] = SEEDS,
    problems: int | None = None,
    steps: int | None = None,
) -> Study:
    """Return the study on the files in ``data``, measured on the first ``problems`` of the test file or all."""
    training, test = (data / "train.jsonl", data / "test.jsonl")
    known, exam = read_problems(training), read_problems(test)[:problems]
    conditions = {
        "data": hashlib.sha256(training.read_bytes() + test.read_bytes()).hexdigest()[:12],
        "problems": len(exam),
        "instruction": INSTRUCTION,
        "longest_answer": setting.answers.max_new_tokens,
        "answers_at_a_time": setting.answers.batch_size,
        "dtype": setting.runtime.dtype,
    }
    return Study(
        setting,
        make_arms(sizes, conditions, steps),
        make_tables(sizes, seeds),
        questions=lambda seed: Random(seed).sample(known, len(known)),
        exam=lambda _seed: exam,
    )


def run_study(study: Study, base: BaseModelRef, groups: Iterable[Sequence[str]], seeds: Sequence[int]) -> None:
    """Make what is missing of each group of arms on ``seeds``; write all tables after each group."""
    store = Store(study.setting.results, study.setting.work)
    for group in groups:
        work_off(study, order(study.arms, [(BASE, BASE_SHOWN, *group)], seeds), base)
        known = current(store.records(), study.arms)
        print(publish(study.tables.values(), known, study.setting.results), flush=True)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of train.jsonl and test.jsonl")
    parser.add_argument("model", type=Path, help="Hugging Face folder of the base model")
    parser.add_argument("--arms", default=",".join(COMPARED), help="names without size, separated by commas")
    parser.add_argument("--sizes", type=_numbers, default=SIZES, help="numbers of questions, separated by commas")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many data seeds")
    parser.add_argument("--problems", type=int, help="first test problems to measure on; default: all")
    parser.add_argument("--steps", type=int, help="optimizer steps of every arm; default: by size")
    parser.add_argument("--longest", type=int, default=512, help="longest answer in tokens")
    parser.add_argument("--batch", type=int, default=64, help="answers generated at a time")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line chooses and print the tables."""
    options = _parse(arguments)
    chosen = options.arms.split(",")
    unknown = set(chosen) - set(COMPARED)
    if unknown:
        sys.exit(f"no such arm: {', '.join(sorted(unknown))}; there are {', '.join(COMPARED)}")
    be_quiet()
    model = options.model.resolve()
    base = BaseModelRef(name=model.name, path=str(model), digest=model_digest(model))
    computing = runtime(options.dtype, options.device, options.threads)
    setting = make_setting(model.name, computing, longest=options.longest, at_a_time=options.batch)
    # Tables show what earlier calls made, too, whatever this one chooses.
    sizes = sorted({*SIZES, *options.sizes})
    seeds = range(max(options.seeds, len(SEEDS)))
    study = make_study(options.data, setting, sizes=sizes, seeds=seeds, problems=options.problems, steps=options.steps)
    groups = [[f"{name}_{questions}" for name in chosen] for questions in options.sizes]
    run_study(study, base, groups, range(options.seeds))


if __name__ == "__main__":
    main()

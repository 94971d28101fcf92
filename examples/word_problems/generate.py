"""Writes ``train.jsonl`` and ``validation.jsonl`` from the seeds below and the responses in ``responses.jsonl``.

    python -m examples.word_problems.generate

The result is the same, byte for byte, on every machine.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from examples.word_problems.families import FAMILIES, Problem, draw_problems
from worker.training.building.template_judge import judge_by_template
from worker.training.graders import is_correct
from worker.training.spec import FinalAnswerGrader

FOLDER = Path(__file__).parent
VALIDATION_SEED, VALIDATION_ROWS = 1, 150
TRAINING_SEED, CANDIDATES = 2, 192
RIGHT_PER_FAMILY, WRONG_PER_FAMILY = 6, 4
GRADER = FinalAnswerGrader()
INSTRUCTION = "Solve the problem in short steps. End with #### and the result."

Row = dict[str, Any]


def validation_problems() -> list[Problem]:
    """Return the held-out problems."""
    return draw_problems(VALIDATION_SEED, VALIDATION_ROWS)


def training_problems() -> list[Problem]:
    """Return the problems that the model answered; none has the numbers of a held-out one."""
    return draw_problems(TRAINING_SEED, CANDIDATES, avoid=validation_problems())


def prompt(problem: Problem) -> list[dict[str, str]]:
    """Return the chat that asks ``problem``."""
    return [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": problem.question}]


def validation_rows() -> list[Row]:
    """Return the held-out rows: prompt and reference."""
    return [{"messages": prompt(problem), "reference": problem.solution} for problem in validation_problems()]


def training_rows(responses: Mapping[str, str]) -> list[Row]:
    """Return the training rows: of each family the first right and wrong ones among ``responses`` (by question)."""
    left = {(name, is_right): count for name in FAMILIES for is_right, count in _QUOTA.items()}
    rows: list[Row] = []
    for problem in training_problems():
        response = responses.get(problem.question)
        if response is None:
            continue
        judgment = judge(response, problem.solution)
        key = (problem.family, judgment is None)
        if left[key]:
            left[key] -= 1
            row = {"messages": prompt(problem), "response": response, "reference": problem.solution}
            rows.append(row | ({} if judgment is None else {"judgment": judgment}))
    return rows


def judge(response: str, reference: str) -> str | None:
    """Return what is wrong with ``response``; None when it reaches the result of ``reference``."""
    return None if is_correct(response, reference, GRADER) else judge_by_template(response, reference, GRADER)


def read_responses(file: Path) -> dict[str, str]:
    """Return the responses of ``file`` by question."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return {row["question"]: row["response"] for row in map(json.loads, lines)}


def write_rows(file: Path, rows: Iterable[Row]) -> None:
    """Write ``rows`` to ``file``, one JSON object a line."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


_QUOTA = {True: RIGHT_PER_FAMILY, False: WRONG_PER_FAMILY}


def main() -> None:
    """Write both files beside this script."""
    rows = training_rows(read_responses(FOLDER / "responses.jsonl"))
    write_rows(FOLDER / "train.jsonl", rows)
    write_rows(FOLDER / "validation.jsonl", validation_rows())
    kinds = Counter("wrong" if "judgment" in row else "right" for row in rows)
    print(f"{len(rows)} training rows ({kinds['right']} right, {kinds['wrong']} wrong), {VALIDATION_ROWS} held out")


if __name__ == "__main__":
    main()

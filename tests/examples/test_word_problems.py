import json
from collections import Counter
from pathlib import Path

import pytest

from examples.word_problems.families import FAMILIES, draw_problems
from examples.word_problems.generate import (
    FOLDER,
    GRADER,
    judge,
    read_responses,
    training_problems,
    training_rows,
    validation_problems,
    validation_rows,
    write_rows,
)
from examples.word_problems.sample_responses import warm_up_problems
from worker.training.data.examples import NLFTExample
from worker.training.data.reader import RowReader
from worker.training.graders import find_number, is_correct


@pytest.mark.parametrize("name", ["train.jsonl", "validation.jsonl"])
def test_committed_rows_are_what_the_script_writes(tmp_path: Path, name: str) -> None:
    rows = (
        validation_rows() if name == "validation.jsonl" else training_rows(read_responses(FOLDER / "responses.jsonl"))
    )
    write_rows(tmp_path / name, rows)
    assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


@pytest.mark.parametrize(("name", "least"), [("train.jsonl", 60), ("validation.jsonl", 150)])
def test_committed_rows_are_sound_and_all_different(name: str, least: int) -> None:
    reader = RowReader()
    rows = list(reader.rows([(FOLDER / name).read_bytes()]))
    report = reader.report()
    assert (report.format, report.total_problems, report.total_warnings) == ("nlft", 0, 0)
    assert len(rows) >= least


def test_training_rows_are_right_where_no_judgment_says_otherwise() -> None:
    kinds: Counter[bool] = Counter()
    with (FOLDER / "train.jsonl").open("rb") as file:
        for _, row in RowReader().rows(file):
            assert isinstance(row, NLFTExample)
            right = is_correct(row.response or "", row.reference or "", GRADER)
            assert right == (row.judgment is None)
            kinds[right] += 1
    assert 0.5 <= kinds[True] / kinds.total() <= 0.7


def test_training_warm_up_and_held_out_questions_are_disjoint() -> None:
    questions = [
        {problem.question for problem in problems}
        for problems in (training_problems(), warm_up_problems(), validation_problems())
    ]
    assert sum(map(len, questions)) == len(set.union(*questions))
    assert {problem.family for problem in validation_problems()} == set(FAMILIES)


def test_worked_solutions_compute_what_they_claim() -> None:
    for problem in draw_problems(seed=9, count=400):
        assert judge(problem.solution, problem.solution) is None
        last_step = problem.solution.rpartition(" = ")[2]
        assert find_number(problem.solution, "####") == int(last_step.split()[0])


REFERENCE = "The packs hold 2 * 5 = 10 nuts. In all that is 3 + 10 = 13 nuts.\n#### 13"


def test_a_right_response_spelled_differently_is_not_judged() -> None:
    assert judge("5 * 2 = 10. 10 + 3 = 13\n#### 13.0", REFERENCE) is None


def test_responses_belong_to_training_questions() -> None:
    lines = (FOLDER / "responses.jsonl").read_text().splitlines()
    asked = {problem.question for problem in training_problems()}
    assert {json.loads(line)["question"] for line in lines} <= asked

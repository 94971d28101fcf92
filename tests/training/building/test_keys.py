import subprocess
import sys
from typing import Any

import pytest

from tests.training.builders import question
from worker.training.building.keys import stage_keys
from worker.training.data.examples import NLFTExample
from worker.training.data.reader import Row
from worker.training.spec import BaseModelRef, BuildingSettings, TrainingSpec

ALL = ("rollout", "grading", "rationalization", "regrading", "judging")
RAW = [Row(1, NLFTExample(question("1 + 1?"), reference="2")), Row(2, NLFTExample(question("1 + 2?"), reference="3"))]


def keys(
    rows: list[Row] = RAW,
    *,
    digest: str = "d",
    seed: int = 0,
    method: str = "nlft",
    hyperparameters: dict[str, Any] | None = None,
    **building: Any,
) -> Any:
    return stage_keys(
        TrainingSpec(
            job_id="job",
            base_model=BaseModelRef(name="m", path="/m", digest=digest),
            method=method,
            hyperparameters=hyperparameters or {},
            building=BuildingSettings(**building),
            seed=seed,
        ),
        rows,
    )


def changed(**changes: Any) -> set[str]:
    """Return the stages whose keys ``changes`` alter."""
    before, after = keys(), keys(**changes)
    return {stage for stage in before if before[stage] != after.get(stage)}


def test_raw_rows_go_through_all_stages() -> None:
    assert list(keys()) == list(ALL)
    assert list(keys(rationalization={"n": 0})) == ["rollout", "grading", "judging"]
    assert keys() == keys()


def test_a_worked_reference_that_is_trained_itself_is_shown_to_nobody() -> None:
    worked = "There is 1 to begin with and 1 more comes along, so that there are 2 in all."
    rows = [Row(1, NLFTExample(question("1 + 1?"), reference=worked))]
    assert list(keys(rows)) == ["rollout", "grading", "judging"]
    for shown in ({"rationalization": {"questions": "all"}}, {"mixture": {"references_as_right": False}}):
        assert list(keys(rows, **shown)) == list(ALL)
    assert list(keys([*rows, *RAW])) == list(ALL)


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"digest": "other"}, set(ALL)),
        ({"seed": 1}, set(ALL)),
        ({"rollout": {"n": 2}}, set(ALL)),
        ({"rows": [RAW[0], Row(2, NLFTExample(question("1 + 2?"), reference="4"))]}, set(ALL[1:])),
        ({"grader": {"type": "final_answer", "extract": "last_number"}}, set(ALL[1:])),
        ({"pass_threshold": 0.9}, set(ALL[2:])),
        ({"rationalization": {"n": 3}}, set(ALL[2:])),
        ({"rationalization": {"questions": "all"}}, set(ALL[2:])),
        ({"mixture": {"references_as_right": False}}, set(ALL[2:])),
        ({"hyperparameters": {"prompts": "paper"}}, set(ALL[2:])),
        ({"mixture": {"max_wrong_per_question": 1}}, {"judging"}),
        ({"judge": {"type": "self"}}, {"judging"}),
        ({"judge": None}, {"judging"}),
    ],
)
def test_a_change_reaches_the_stages_that_depend_on_it(changes: dict[str, Any], stages: set[str]) -> None:
    assert changed(**changes) == stages


@pytest.mark.parametrize(
    ("row", "method", "stages"),
    [
        ({"response": "2", "correct": True}, "nlft", []),
        ({"response": "3", "judgment": "It is 2."}, "nlft", []),
        ({"response": "3", "correct": False}, "nlft", ["judging"]),
        ({"response": "3"}, "nlft", ["grading", "judging"]),
        ({"response": "3"}, "supervised", []),
        ({}, "supervised", list(ALL[:4])),
    ],
)
def test_only_what_a_row_lacks_is_made(row: dict[str, Any], method: str, stages: list[str]) -> None:
    rows = [Row(1, NLFTExample(question("1 + 1?"), reference="2", **row))]
    assert list(keys(rows, method=method)) == stages


def test_a_mixture_needs_grades_whatever_the_method() -> None:
    rows = [Row(1, NLFTExample(question("1 + 1?"), reference="2", response="3"))]
    assert list(keys(rows, method="supervised", mixture={"max_wrong_per_question": 0})) == ["grading"]


def test_keys_and_parts_load_without_torch() -> None:
    code = (
        "import sys, worker.training.building.keys, worker.training.building.parts\n"
        "sys.exit(bool({'torch', 'numpy', 'transformers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

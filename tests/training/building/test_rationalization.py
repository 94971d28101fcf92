"""Questions that no response solves, answered with the reference shown."""

from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.tiny_models import build_tokenizer
from tests.training.building.runs import dataset, messages, phases, raw_rows, report, run, workspace
from worker.training.building.rationalization import reaches_result, shows_way
from worker.training.generation import Decoding, Generated, generate
from worker.training.spec import FinalAnswerGrader

FEW = {"n": 1, "max_new_tokens": 24, "temperature": 1.0, "batch_size": 16}
RATIONALIZED: dict[str, Any] = {"rollout": FEW, "rationalization": {"n": 8}}
EVERY: dict[str, Any] = {"rollout": FEW, "rationalization": {"n": 8, "questions": "all"}}


@pytest.mark.parametrize(
    ("response", "is_sound"),
    [
        ("3 * 4 = 12. 12 + 2 = 14.\n#### 14", True),
        ("3 * 4 = 13. 13 + 2 = 15.\n#### 15", False),
        ("3 * 4 = 12. 12 + 2 = 14.\n#### 20", False),
        ("20 / 8 = 2.5 hours.\n#### 2.50", True),
        ("The shop closes at noon, so it is\n#### 12", True),
        ("3 * 4 = 12, so nobody knows.", True),
        ("3 * 4 = 12, so it is\n#### noon", False),
    ],
)
def test_a_response_that_calculates_must_come_to_its_result(response: str, is_sound: bool) -> None:
    assert reaches_result(response, FinalAnswerGrader()) is is_sound


LONG = "He saved 95 + 15 = 110 dollars in all. Then he spent 110 - 60 = 50 of them.\n#### 50"


@pytest.mark.parametrize(
    ("response", "others", "shows"),
    [
        ("The answer is 50.", [LONG], False),
        ("The answer is 50.", ["#### 50", LONG], False),
        ("The answer is 50.", ["#### 50", "It is 40."], True),
        ("That is 110 - 60 = 50.", [LONG], True),
        ("That is 110 - 60 = 50.", [LONG + " 1 + 1 = 2. 2 + 2 = 4. 4 + 4 = 8."], False),
        ("He saved up and then spent some of it, so that there are fifty left.", [LONG], True),
        (
            "The capital is Paris.",
            ["Paris has been the capital of France for all but a few years since the year 987."],
            False,
        ),
    ],
)
def test_a_response_must_show_a_way_where_another_does(response: str, others: list[str], shows: bool) -> None:
    assert shows_way(response, others) is shows


def test_questions_without_a_right_response_get_one_written_with_the_reference_shown(
    tmp_path: Path, counter: Path
) -> None:
    plain = run(tmp_path / "plain", counter, building={"rollout": FEW, "rationalization": {"n": 0}})
    assert "rationalization" not in phases(plain)
    solved = {row.prompt[0].text for row in dataset(tmp_path / "plain") if row.correct}
    asked = {row["messages"][0]["content"] for row in raw_rows()}
    assert 0 < len(solved) < len(asked)

    observer = run(tmp_path / "both", counter, building=RATIONALIZED)
    assert phases(observer)[:6] == ["preparing", "rollout", "grading", "rationalization", "regrading", "judging"]
    counts, rows = report(observer), dataset(tmp_path / "both")
    assert counts["unsolved"] == len(asked) - len(solved)
    assert counts["rationalized"] == 8 * counts["unsolved"]
    assert counts["rationalized"] >= counts["rationalized_right"] >= counts["rationalizations_added"] > 0
    added = [row for row in rows if row.correct and row.prompt[0].text not in solved]
    assert len(added) == counts["rationalizations_added"] == counts["right"] - len(solved)
    # What is trained is the plain question, in the place of its wrong responses.
    answered = {row.prompt[0].text for row in added}
    assert answered <= asked
    wrong = [row.prompt[0].text for row in dataset(tmp_path / "plain") if not row.correct]
    assert [row.prompt[0].text for row in rows if not row.correct] == [text for text in wrong if text not in answered]
    assert counts["wrong_replaced"] == sum(text in answered for text in wrong) > 0
    assert f"the {counts['unsolved']} question(s) without a right one" in messages(observer)


def test_wrong_responses_may_stay_beside_what_is_added(tmp_path: Path, counter: Path) -> None:
    both = {"n": 8, "replaces_wrong": False}
    observer = run(tmp_path, counter, building={"rollout": FEW, "rationalization": both})
    counts, rows = report(observer), dataset(tmp_path)
    right = {row.prompt[0].text for row in rows if row.correct}
    assert counts["rationalizations_added"] > counts["wrong_replaced"] == 0
    assert right & {row.prompt[0].text for row in rows if not row.correct}


def test_what_is_shown_is_the_prompt_of_the_method(
    tmp_path: Path, counter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []

    def overhear(model: Any, prompts: Any, stop_ids: Any, decoding: Decoding, **rest: Any) -> list[Generated]:
        asked.extend(prompt.tolist() for prompt in prompts)
        return generate(model, prompts, stop_ids, decoding, **rest)

    monkeypatch.setattr("worker.training.building.rollout.generate", overhear)
    hyperparameters = {"n_epochs": 1, "prompts": {"reference": "{{ question }} Peek: {{ reference }}"}}
    observer = run(tmp_path, counter, building=RATIONALIZED, hyperparameters=hyperparameters)
    texts = [build_tokenizer().decode(prompt) for prompt in asked]
    guided = [text for text in texts if "Peek: #### " in text]
    assert len(guided) == report(observer)["unsolved"]
    assert len(texts) - len(guided) == report(observer)["questions"]


def test_another_run_finds_the_stages_of_the_first(tmp_path: Path, counter: Path) -> None:
    run(tmp_path / "first", counter, building=RATIONALIZED)
    workspace(tmp_path / "second", counter, building=RATIONALIZED)
    (tmp_path / "first/stages").rename(tmp_path / "second/stages")
    second = run(tmp_path / "second", counter, building=RATIONALIZED)
    assert messages(second).count("were there already") == 5
    assert dataset(tmp_path / "second") == dataset(tmp_path / "first")


def test_a_reference_that_leaves_no_room_is_passed_over(tmp_path: Path, counter: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"Say {number}!"}], "reference": f"{'so ' * length}#### {number}"}
        for number, length in ((7, 2000), (8, 0), (1, 0), (2, 0))
    ]
    observer = run(tmp_path, counter, rows=rows, building=EVERY, hyperparameters={"n_epochs": 1})
    counts = report(observer)
    assert counts["unsolved"] * 8 - counts["rationalized"] == 8


def worked_rows() -> list[dict[str, Any]]:
    steps = "One counts from the start and says every number aloud until there is none left to say.\n"
    return [{**row, "reference": steps + row["reference"]} for row in raw_rows()]


def test_a_worked_reference_is_trained_and_not_shown(tmp_path: Path, counter: Path) -> None:
    observer = run(tmp_path, counter, rows=worked_rows(), building=RATIONALIZED)
    counts, built = report(observer), dataset(tmp_path)
    assert "rationalization" not in phases(observer)
    solved = {row.prompt[0].text for row in built if row.correct and row.response != row.reference}
    added = {row.prompt[0].text for row in built if row.correct and row.response == row.reference}
    assert solved
    assert added
    assert not solved & added
    assert len(solved | added) == len(raw_rows())
    assert counts["references_added"] == len(added)
    assert f"{len(added)} references added" in messages(observer)


def test_a_result_that_is_only_named_is_left_out(tmp_path: Path, counter: Path) -> None:
    observer = run(tmp_path, counter, rows=worked_rows(), building=EVERY)
    counts = report(observer)
    assert counts["rationalized_bare"] == counts["rationalized_right"] > counts["rationalizations_added"] == 0
    assert counts["references_added"] == counts["unsolved"] > 0
    assert f"({counts['rationalized_bare']} that only name the result are left out)" in messages(observer)

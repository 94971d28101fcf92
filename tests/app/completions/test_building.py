"""The building stages against a real endpoint that misbehaves, through the client that workers use."""

from pathlib import Path
from typing import Any

import pytest

from app.completions import asking
from tests.app.completions.asking import client_of
from tests.fixtures.endpoints import FakeEndpoint, Reply
from tests.training.builders import RecordingObserver, make_workspace
from tests.training.building.conftest import build_speaker
from worker.training.errors import StageError
from worker.training.events import MessageEvent, ResultEvent
from worker.training.spec import BuildingSettings
from worker.training.trainer import train

ROWS = [
    {"messages": [{"role": "user", "content": f"{number} and {number}?"}], "reference": f"#### {number + 20}"}
    for number in range(3)
]
JUDGE = {"judge": {"type": "endpoint", "model": "judge"}}
SCORER = {
    "grader": {
        "type": "score_model",
        "name": "s",
        "model": "judge",
        "input": [{"role": "user", "content": "Rate {{ sample.output_text }} against {{ item.reference }}."}],
    }
}


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_speaker(tmp_path_factory.mktemp("counter") / "counter", ["1", "2", "3", "<|im_end|>"])


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "FIRST_WAIT_SECONDS", 0.01)


def build(folder: Path, model: Path, endpoint: FakeEndpoint, building: dict[str, Any]) -> tuple[ResultEvent, str]:
    """Train on sampled responses; return the result and what was said on the way."""
    settings = BuildingSettings.model_validate({"rollout": {"n": 2, "max_new_tokens": 16}, **building})
    hyperparameters = {"n_epochs": 1, "batch_size": 4}
    spec = make_workspace(folder, model, ROWS, method="nlft", hyperparameters=hyperparameters, building=settings)
    observer = RecordingObserver()
    with client_of(endpoint, attempts=1) as client:
        result = train(folder, spec, observer, client)
    return result, "\n".join(event.message for event in observer.of(MessageEvent))


MUTE = [
    Reply(status=401),
    Reply(status=500),
    Reply(body=b"<html>"),
    Reply(hangs=True),
    Reply(drops=True),
]
NAMES = ["refuses", "breaks", "talks nonsense", "times out", "hangs up"]


@pytest.mark.parametrize("reply", MUTE, ids=NAMES)
@pytest.mark.parametrize(("stage", "building"), [("judging", JUDGE), ("grading", SCORER)])
def test_an_endpoint_without_an_answer_fails_the_run_with_the_name_of_the_stage(
    tmp_path: Path, counter: Path, fake_endpoint: FakeEndpoint, *, reply: Reply, stage: str, building: dict[str, Any]
) -> None:
    fake_endpoint.script(reply)
    with pytest.raises(StageError) as caught:
        build(tmp_path, counter, fake_endpoint, building)
    assert caught.value.code == f"{stage}_failed"


@pytest.mark.parametrize("text", ["banana", "", "9999"])
def test_a_scorer_that_says_no_number_in_range_fails_grading(
    tmp_path: Path, counter: Path, fake_endpoint: FakeEndpoint, text: str
) -> None:
    fake_endpoint.script(Reply(text))
    with pytest.raises(StageError) as caught:
        build(tmp_path, counter, fake_endpoint, SCORER)
    assert caught.value.code == "grading_failed"


def test_a_scorer_that_answers_most_of_the_time_is_good_enough(
    tmp_path: Path, counter: Path, fake_endpoint: FakeEndpoint
) -> None:
    fake_endpoint.script(Reply("banana"), Reply("0.9"), Reply("0.1"))
    result, said = build(tmp_path, counter, fake_endpoint, SCORER)
    assert result.steps > 0
    assert "1 could not be graded" in said


@pytest.mark.parametrize("text", ["", "The response is correct.", "   "])
def test_judgments_that_say_nothing_are_dropped_and_training_goes_on(
    tmp_path: Path, counter: Path, fake_endpoint: FakeEndpoint, text: str
) -> None:
    fake_endpoint.script(Reply(text))
    result, said = build(tmp_path, counter, fake_endpoint, JUDGE)
    assert result.steps > 0
    assert "dropped" in said


def test_a_judge_that_fails_once_costs_one_judgment(tmp_path: Path, counter: Path, fake_endpoint: FakeEndpoint) -> None:
    fake_endpoint.script(Reply(status=422), Reply("The sum is 20 more than that; add twenty."))
    result, said = build(tmp_path, counter, fake_endpoint, JUDGE)
    assert result.steps > 0
    assert "1 failed" in said

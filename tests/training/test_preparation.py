from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.tiny_models import TinyModel
from tests.training.builders import RecordingObserver, make_workspace, sum_rows
from worker.training.data.examples import NLFTExample
from worker.training.errors import DatasetError
from worker.training.events import MessageEvent
from worker.training.observer import NullObserver
from worker.training.preparation import read_training_rows
from worker.training.spec import LoraSettings
from worker.training.trainer import train

QUESTION = [{"role": "user", "content": "1 + 1?"}]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param({"response": "#### 3", "reference": "#### 2"}, None, id="left to the grading stage"),
        pytest.param({"response": "#### 2", "reference": "#### 2", "judgment": "clumsy"}, False, id="criticised"),
        pytest.param({"response": "#### 3", "reference": "#### 2", "correct": True}, True, id="said to be right"),
        pytest.param({"response": "#### 3"}, None, id="nothing to compare with"),
    ],
)
def test_rows_are_wrong_where_a_judgment_tells(
    tmp_path: Path, tiny_model: TinyModel, row: dict[str, Any], expected: bool | None
) -> None:
    spec = make_workspace(tmp_path, tiny_model(), [{"messages": QUESTION, **row}])
    (read,) = read_training_rows(tmp_path, spec).rows
    assert isinstance(read.example, NLFTExample)
    assert read.example.correct is expected


@pytest.mark.parametrize("method", ["supervised", "nlft"])
def test_rows_longer_than_allowed_are_named(tmp_path: Path, tiny_model: TinyModel, method: str) -> None:
    rows = sum_rows(3)
    rows[1]["response"] = "long " * 80 + "#### 6"
    chosen = {"max_seq_length": 300}
    with pytest.raises(DatasetError) as caught:
        train(
            tmp_path,
            make_workspace(tmp_path, tiny_model(), rows, method=method, hyperparameters=chosen),
            NullObserver(),
        )
    assert {(problem.line, problem.code) for problem in caught.value.problems} == {(2, "too_many_tokens")}


def test_formats_that_the_method_does_not_know_are_refused(tmp_path: Path, tiny_model: TinyModel) -> None:
    rows = [{"prompt": "1 + 1 = ", "completion": "2"}]
    with pytest.raises(DatasetError) as caught:
        train(tmp_path, make_workspace(tmp_path, tiny_model(), rows, method="nlft"), NullObserver())
    assert [problem.code for problem in caught.value.problems] == ["wrong_format"]


def test_a_slow_way_of_running_is_told(tmp_path: Path, tiny_model: TinyModel) -> None:
    adapter = LoraSettings(r=2, target_modules=["lm_head"])
    spec = make_workspace(tmp_path, tiny_model(), sum_rows(4), adapter=adapter)
    observer = RecordingObserver()
    train(tmp_path, spec, observer)
    assert any("head is not scored the fast way" in event.message for event in observer.of(MessageEvent))

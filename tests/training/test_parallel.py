"""Two processes on gloo train what one process trains; what goes wrong on one of them ends, or spares, both alike."""

import json
import shutil
from pathlib import Path

import pytest

from tests.fixtures.tiny_models import TinyModel
from tests.training.builders import RecordingObserver
from tests.training.pairs import (
    LOSS_TOLERANCE,
    RUNS,
    STOPPED,
    Alone,
    adapter_bytes,
    assert_same_adapter,
    ends_of,
    events_of,
    metrics_of,
    run_pair,
    write_case,
)
from tests.training.ranked import Case
from worker.training.errors import TrainingStopped
from worker.training.events import (
    CheckpointEvent,
    EvaluationEvent,
    MessageEvent,
    MetricsEvent,
    ProgressEvent,
    StageEvent,
)
from worker.training.spec import LoraSettings
from worker.training.trainer import train

DROPOUT = {"method": "supervised", "adapter": LoraSettings(r=4, dropout=0.2)}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, tiny_model: TinyModel) -> Path:
    """Return the folder in which two processes have run all cases."""
    folder = tmp_path_factory.mktemp("pair")
    cases = {Case(name): run for name, run in RUNS.items()} | {
        Case("straight"): DROPOUT,
        Case("stopped", stop_after=4): DROPOUT,
        Case("resumed", resume_from=f"stopped/{STOPPED}"): DROPOUT,
        Case("stopped for one", stop_after=4): RUNS["nlft, online"],
        **{Case(mischief, mischief=mischief): RUNS["supervised"] for mischief in ("memory", "drift", "raise")},
        Case("bad rows"): RUNS["supervised"],
    }
    for case, run in cases.items():
        write_case(folder / case.name, tiny_model(), run)
    (folder / "bad rows/inputs/training.jsonl").write_text("{}\n")
    return run_pair(folder, cases)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_model: TinyModel) -> Alone:
    return Alone(tmp_path_factory.mktemp("alone"), tiny_model())


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_what_one_does(alone: Alone, pair: Path, name: str) -> None:
    folder, observer = alone(name)
    assert_same_adapter(folder, pair / name)
    for found, expected in zip(metrics_of(pair / name), observer.of(MetricsEvent), strict=True):
        assert (found.step, found.tokens, found.epoch) == (expected.step, expected.tokens, expected.epoch)
        assert found.train_loss == pytest.approx(expected.train_loss, rel=LOSS_TOLERANCE)
        assert (found.valid_loss is None) == (expected.valid_loss is None)
        assert (found.valid_loss or 0) == pytest.approx(expected.valid_loss or 0, rel=LOSS_TOLERANCE)
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
        assert found.train_mean_token_accuracy == expected.train_mean_token_accuracy
        assert (found.extra or {}) == pytest.approx(expected.extra or {}, rel=1e-4)


@pytest.mark.parametrize("name", RUNS)
def test_the_first_process_tells_what_one_process_tells(alone: Alone, pair: Path, name: str) -> None:
    folder, observer = alone(name)
    # How many parts scores are kept in depends on who made them.
    found, expected = (
        [type(event).__name__ for event in events if not isinstance(event, ProgressEvent | StageEvent)]
        for events in (events_of(pair / name), observer.events)
    )
    assert found == expected
    answers = [event for event in events_of(pair / name) if isinstance(event, EvaluationEvent)]
    assert [(one.correct, one.total) for one in answers] == [
        (one.correct, one.total) for one in observer.of(EvaluationEvent)
    ]
    outputs = {path.name for path in (pair / name / "outputs").iterdir()}
    assert outputs == {path.name for path in (folder / "outputs").iterdir()}
    for table in ("row_losses.csv", "saliency.jsonl"):
        rows, lines = ((one / "outputs" / table).read_text().splitlines() for one in (pair / name, folder))
        assert len(rows) == len(lines)


def test_processes_with_the_whole_base_keep_hidden_states(pair: Path) -> None:
    told = [event.message for event in events_of(pair / "hidden states kept") if isinstance(event, MessageEvent)]
    assert not any("Hidden states" in message for message in told)


def test_both_processes_have_their_share_of_every_step(pair: Path) -> None:
    first, second = (end.examples for end in ends_of(pair / "supervised"))
    # Three epochs of steps on 4, 4 and 2 rows, each epoch with a validation on 3.
    assert [sum(shares) for shares in zip(first, second, strict=True)] == [4, 4, 2, 3] * 3
    assert min(*first, *second) >= 1
    first, second = (end.examples for end in ends_of(pair / "fewer examples than processes"))
    assert {0, 1} == {*first[:-1], *second[:-1]}


def test_two_processes_resume_bit_for_bit_with_dropout(pair: Path) -> None:
    assert ends_of(pair / "stopped")[0].error == "TrainingStopped"
    assert adapter_bytes(pair / "resumed") == adapter_bytes(pair / "straight")
    losses = [step.train_loss for step in metrics_of(pair / "straight")]
    assert [step.train_loss for step in metrics_of(pair / "resumed")] == losses[4:]


def test_one_process_continues_what_two_began(tmp_path: Path, tiny_model: TinyModel, alone: Alone, pair: Path) -> None:
    spec = write_case(tmp_path, tiny_model(), RUNS["nlft, online"])
    shutil.copytree(pair / "stopped for one" / STOPPED, tmp_path / "resume")
    train(tmp_path, spec.model_copy(update={"n_gpus": 1}), RecordingObserver())
    assert_same_adapter(alone("nlft, online")[0], tmp_path)


def test_checkpoints_of_one_and_of_two_processes_are_of_one_kind(
    tmp_path: Path, tiny_model: TinyModel, pair: Path
) -> None:
    observer = RecordingObserver(after_step=4)
    with pytest.raises(TrainingStopped):
        train(tmp_path, write_case(tmp_path, tiny_model(), RUNS["nlft, online"]), observer)
    last = observer.of(CheckpointEvent)[-1]
    found, expected = (
        json.loads((folder / "manifest.json").read_text())
        for folder in (pair / "stopped for one" / STOPPED, tmp_path / last.path)
    )
    assert found["fingerprint"] == expected["fingerprint"]
    assert found["files"].keys() == expected["files"].keys()


def test_memory_that_one_process_lacks_costs_only_that_one(alone: Alone, pair: Path) -> None:
    plenty, little = ends_of(pair / "memory")
    assert (plenty.error, plenty.refused) == (None, 0)
    assert little.error is None
    assert little.refused > 0
    assert_same_adapter(alone("supervised")[0], pair / "memory")


def test_processes_that_drift_apart_are_found_out_at_the_next_checkpoint(pair: Path) -> None:
    ends = ends_of(pair / "drift")
    assert [end.error for end in ends] == ["TrainingError", "TrainingError"]
    assert "no longer agree on the adapter after step 3" in ends[0].message
    assert not (pair / "drift/outputs").exists()


def test_an_error_on_one_process_is_raised_on_both(pair: Path) -> None:
    ends = ends_of(pair / "raise")
    assert ends[0] == ends[1]
    assert (ends[0].error, ends[0].message[:15]) == ("TrainingError", "training failed")
    assert [end.error for end in ends_of(pair / "bad rows")] == ["DatasetError", "DatasetError"]

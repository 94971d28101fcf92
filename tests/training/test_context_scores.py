"""Scores of contexts: the same whoever makes them and wherever they come from, and never made twice."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.fixtures.tiny_models import TinyModel
from tests.training.builders import RecordingObserver, make_workspace, sum_rows
from worker.training.engine.folders import describe_file
from worker.training.errors import CheckpointError, TrainingStopped
from worker.training.events import CheckpointEvent, MessageEvent, MetricsEvent, PhaseEvent, StageEvent
from worker.training.spec import RuntimeSettings, TrainingSpec
from worker.training.trainer import train

ROWS = 10


def begin(folder: Path, model: Path, scoring: str, **values: Any) -> TrainingSpec:
    chosen = {"n_epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "scoring": scoring, **values}
    return make_workspace(folder, model, sum_rows(ROWS), sum_rows(3), method="nlft", hyperparameters=chosen)


def counts(observer: RecordingObserver) -> list[dict[str, Any]]:
    return [event.data for event in observer.of(MessageEvent) if event.data and "recalled" in event.data]


def kept_texts(observer: RecordingObserver) -> int:
    return sum(event.summary["records"] for event in observer.of(StageEvent) if event.stage == "scoring")


def scoring_parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("stages/scoring-*/part-*.jsonl"))


def test_at_the_first_step_all_modes_give_the_same(tmp_path: Path, tiny_model: TinyModel) -> None:
    first = {}
    for scoring in ("online", "epoch", "frozen"):
        observer = RecordingObserver()
        train(tmp_path / scoring, begin(tmp_path / scoring, tiny_model(), scoring), observer)
        first[scoring] = observer.of(MetricsEvent)[0]
    for scoring in ("epoch", "frozen"):
        assert first[scoring].train_loss == pytest.approx(first["online"].train_loss, abs=1e-5)
        assert first[scoring].extra == pytest.approx(first["online"].extra, abs=1e-5)


def test_contexts_are_renewed_before_every_epoch_and_in_no_other_mode(tmp_path: Path, tiny_model: TinyModel) -> None:
    for scoring, times in (("epoch", 3), ("frozen", 1), ("online", 0)):
        observer = RecordingObserver()
        train(tmp_path / scoring, begin(tmp_path / scoring, tiny_model(), scoring, n_epochs=3), observer)
        assert len(counts(observer)) == times, scoring
        assert bool(scoring_parts(tmp_path / scoring)) == (scoring == "frozen")
        phases = [event.phase for event in observer.of(PhaseEvent)]
        assert phases[-2:] == ["training", "saving"]


def test_a_second_run_on_the_same_rows_scores_nothing(tmp_path: Path, tiny_model: TinyModel) -> None:
    first, second = RecordingObserver(), RecordingObserver()
    train(tmp_path / "first", begin(tmp_path / "first", tiny_model(), "frozen"), first)
    (made,) = counts(first)
    assert made["recalled"] == 0
    assert kept_texts(first) == made["scored"]

    # Thresholds and schedule are no part of what a score depends on.
    spec = begin(tmp_path / "second", tiny_model(), "frozen", reference_threshold=0.5, n_epochs=1)
    shutil.copytree(tmp_path / "first/stages", tmp_path / "second/stages")
    train(tmp_path / "second", spec, second)
    assert counts(second) == [{"recalled": made["scored"], "scored": 0}]
    assert kept_texts(second) == 0


def test_recalled_scores_end_in_the_bits_of_fresh_ones(tmp_path: Path, tiny_model: TinyModel) -> None:
    for name in ("first", "second"):
        spec = begin(tmp_path / name, tiny_model(), "frozen")
        if name == "second":
            shutil.copytree(tmp_path / "first/stages", tmp_path / "second/stages")
        train(tmp_path / name, spec, RecordingObserver())
    weights = "outputs/adapter_model.safetensors"
    assert (tmp_path / "first" / weights).read_bytes() == (tmp_path / "second" / weights).read_bytes()


class StopWhileScoring(RecordingObserver):
    """Ends the run once the first contexts were kept."""

    def stop_requested(self) -> Literal["stop"] | None:
        return "stop" if kept_texts(self) else None


def test_what_was_scored_before_an_early_end_is_not_scored_again(
    tmp_path: Path, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.training.building.scores._PART_TEXTS", 5)
    runtime = RuntimeSettings(device="cpu", dtype="float32", micro_batch_tokens=128)
    observer, again = StopWhileScoring(), RecordingObserver()
    spec = begin(tmp_path, tiny_model(), "frozen").model_copy(update={"runtime": runtime})
    with pytest.raises(TrainingStopped):
        train(tmp_path, spec, observer)
    kept = kept_texts(observer)
    assert kept > 0
    train(tmp_path, spec, again)
    (found,) = counts(again)
    assert found["recalled"] == kept
    assert found["scored"] > 0


def test_a_resumed_run_has_its_scores_from_the_checkpoint(tmp_path: Path, tiny_model: TinyModel) -> None:
    for scoring in ("epoch", "frozen"):
        first, second = tmp_path / scoring / "first", tmp_path / scoring / "second"
        observer, resumed = RecordingObserver(after_step=2), RecordingObserver()
        with pytest.raises(TrainingStopped):
            train(first, begin(first, tiny_model(), scoring), observer)
        spec = begin(second, tiny_model(), scoring)
        shutil.copytree(first / observer.of(CheckpointEvent)[-1].path, second / "resume")
        train(second, spec, resumed)
        assert len(counts(resumed)) == (1 if scoring == "epoch" else 0)


def test_a_checkpoint_in_mid_epoch_without_its_scores_is_refused(tmp_path: Path, tiny_model: TinyModel) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    observer = RecordingObserver(after_step=2)
    with pytest.raises(TrainingStopped):
        train(first, begin(first, tiny_model(), "epoch"), observer)
    spec = begin(second, tiny_model(), "epoch")
    shutil.copytree(first / observer.of(CheckpointEvent)[-1].path, second / "resume")
    # Scores that belong to other texts, in a manifest that says that all is well.
    other = tmp_path / "other"
    other_spec = make_workspace(
        other, tiny_model(), sum_rows(6), method="nlft", hyperparameters={**spec.hyperparameters, "n_epochs": 1}
    )
    train(other, other_spec, RecordingObserver())
    shutil.copyfile(other / "scores.safetensors", second / "resume/scores.safetensors")
    path = second / "resume/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["scores.safetensors"] = describe_file(other / "scores.safetensors")
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="lacks the scores"):
        train(second, spec, RecordingObserver())

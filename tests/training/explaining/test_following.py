"""Pinned rows and row costs through whole runs."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.fixtures.tiny_models import TinyModel
from tests.training.builders import RecordingObserver, make_workspace, sum_rows
from tests.training.explaining.formulas import recompute
from worker.training.errors import SpecError, TrainingStopped
from worker.training.events import CheckpointEvent, MetricsEvent, SaliencyEvent
from worker.training.methods.nlft import NLFTHyperparameters
from worker.training.observer import NullObserver
from worker.training.saliency_record import SaliencyRecord
from worker.training.spec import RuntimeSettings, SaliencySettings, TrainingSpec
from worker.training.trainer import train

CHOSEN = {"n_epochs": 3, "batch_size": 4, "learning_rate": 1e-2}


def begin(folder: Path, model: Path, **fields: Any) -> TrainingSpec:
    return make_workspace(folder, model, sum_rows(10), **{"method": "nlft", "hyperparameters": CHOSEN, **fields})


def read(path: Path) -> list[SaliencyRecord]:
    return [msgspec.json.decode(line, type=SaliencyRecord) for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize(
    "own",
    [{}, {"scoring": "online", "cluster": "distance"}, {"cluster": "similarity", "over_cap": "salient_only"}],
    ids=str,
)
def test_pinned_rows_at_start_checkpoints_and_end(tmp_path: Path, tiny_model: TinyModel, own: dict[str, Any]) -> None:
    sensitive = {"reference_threshold": 0.004, "judgment_ratio_threshold": 1.01, "judgment_probability_floor": 0.0}
    observer = RecordingObserver()
    train(tmp_path, begin(tmp_path, tiny_model(), hyperparameters=CHOSEN | sensitive | own), observer)
    events = observer.of(SaliencyEvent)
    assert [(event.step, event.examples) for event in events] == [(0, 8), (3, 8), (6, 8), (9, 8)]
    written = [record for event in events for record in read(tmp_path / event.path)]
    assert written == read(tmp_path / "outputs/saliency.jsonl")
    assert [record.step for record in written[::8]] == [0, 3, 6, 9]
    assert sum(record.example.correct is False for record in written[:8]) == 4
    settings = NLFTHyperparameters.model_validate(sensitive | own)
    for record in written:
        weights, classes = recompute(record, settings)
        assert [token.weight for token in record.tokens] == pytest.approx(list(weights), abs=1e-6)
        assert [token.class_ for token in record.tokens] == classes


def test_records_on_the_wire(tmp_path: Path, tiny_model: TinyModel) -> None:
    train(tmp_path, begin(tmp_path, tiny_model(), saliency=SaliencySettings(lines=[2])), NullObserver())
    first = json.loads((tmp_path / "saliency/step-000000.jsonl").read_text())
    assert first.keys() == {"example", "step", "loss", "weights_sum", "tokens"}
    assert first["example"] == {"file_line": 2, "correct": False}
    assert first["tokens"][0].keys() == {
        *("text", "id", "base", "frozen_base", "reference", "judgment", "weight", "class", "direction")
    }


def test_following_changes_no_bit_of_the_result(tmp_path: Path, tiny_model: TinyModel) -> None:
    results = []
    for name, settings in (("with", SaliencySettings()), ("without", SaliencySettings(right=0, wrong=0))):
        observer = RecordingObserver()
        train(tmp_path / name, begin(tmp_path / name, tiny_model(), saliency=settings), observer)
        losses = [event.train_loss for event in observer.of(MetricsEvent)]
        results.append((losses, (tmp_path / name / "outputs/adapter_model.safetensors").read_bytes()))
    assert results[0] == results[1]
    assert not (tmp_path / "without/outputs/saliency.jsonl").exists()


def test_a_resumed_run_tells_the_whole_story(tmp_path: Path, tiny_model: TinyModel) -> None:
    straight, first, second = (tmp_path / name for name in ("straight", "first", "second"))
    train(straight, begin(straight, tiny_model()), NullObserver())
    observer = RecordingObserver(after_step=4)
    with pytest.raises(TrainingStopped):
        train(first, begin(first, tiny_model()), observer)
    spec = begin(second, tiny_model())
    shutil.copytree(first / observer.of(CheckpointEvent)[-1].path, second / "resume")
    resumed = RecordingObserver()
    train(second, spec, resumed)
    assert [event.step for event in resumed.of(SaliencyEvent)] == [6, 9]
    for name in ("saliency.jsonl", "row_losses.csv"):
        assert (second / "outputs" / name).read_bytes() == (straight / "outputs" / name).read_bytes()


def test_many_checkpoints_are_not_all_recorded(tmp_path: Path, tiny_model: TinyModel) -> None:
    spec = begin(
        tmp_path,
        tiny_model(),
        hyperparameters=CHOSEN | {"n_epochs": 17},
        runtime=RuntimeSettings(device="cpu", dtype="float32", checkpoint_steps=1),
        saliency=SaliencySettings(lines=[1]),
    )
    observer = RecordingObserver()
    train(tmp_path, spec, observer)
    steps = [event.step for event in observer.of(SaliencyEvent)]
    assert steps == [*range(0, 52, 3)]


def test_what_every_row_cost(tmp_path: Path, tiny_model: TinyModel) -> None:
    observer = RecordingObserver()
    train(tmp_path, begin(tmp_path, tiny_model()), observer)
    with (tmp_path / "outputs/row_losses.csv").open() as file:
        table = list(csv.DictReader(file))
    assert sorted(int(row["line"]) for row in table) == list(range(1, 11))
    means = [float(row["mean_loss"]) for row in table]
    assert means == sorted(means, reverse=True)
    assert {row["passes"] for row in table} == {"3"}
    assert sum(float(row["share_of_loss"]) for row in table) == pytest.approx(1)
    # Steps of 4, 4 and 2 rows: their mean losses, weighted, are the rows' losses.
    steps = [event.train_loss * size for event, size in zip(observer.of(MetricsEvent), [4, 4, 2] * 3, strict=True)]
    assert sum(steps) == pytest.approx(3 * sum(means), rel=1e-5)


def test_an_unknown_line_is_refused(tmp_path: Path, tiny_model: TinyModel) -> None:
    with pytest.raises(SpecError, match="line 11"):
        train(tmp_path, begin(tmp_path, tiny_model(), saliency=SaliencySettings(lines=[11])), NullObserver())

"""Runs over raw rows: what goes in, what is told, what comes out."""

from pathlib import Path
from typing import Any

from tests.training.builders import RecordingObserver, make_workspace
from tests.training.building.conftest import Endpoint
from worker.training.data.examples import NLFTExample
from worker.training.data.reader import read_rows
from worker.training.events import MessageEvent, PhaseEvent
from worker.training.spec import BuildingSettings, TrainingSpec
from worker.training.trainer import train

ROLLOUT = {"n": 8, "max_new_tokens": 24, "temperature": 1.0, "batch_size": 16}


def raw_rows(count: int = 4) -> list[dict[str, Any]]:
    return [
        {
            "messages": [{"role": "user", "content": f"Say {1 + line % 3}! ({line})"}],
            "reference": f"#### {1 + line % 3}",
        }
        for line in range(count)
    ]


def workspace(folder: Path, model: Path, rows: list[dict[str, Any]] | None = None, **fields: Any) -> TrainingSpec:
    building = {"rollout": ROLLOUT} | fields.pop("building", {})
    given = {"method": "nlft", "hyperparameters": {"n_epochs": 1, "batch_size": 4}} | fields
    return make_workspace(folder, model, rows or raw_rows(), building=BuildingSettings(**building), **given)


def run(folder: Path, model: Path, completions: Endpoint | None = None, **fields: Any) -> RecordingObserver:
    observer = RecordingObserver()
    train(folder, workspace(folder, model, **fields), observer, completions)
    return observer


def phases(observer: RecordingObserver) -> list[str]:
    return [event.phase for event in observer.of(PhaseEvent)]


def messages(observer: RecordingObserver) -> str:
    return "\n".join(f"{event.level}: {event.message}" for event in observer.of(MessageEvent))


def report(observer: RecordingObserver) -> dict[str, Any]:
    """Return the counts in the last word of the stages."""
    return next(e.data for e in reversed(observer.of(MessageEvent)) if e.data and "questions_all_right" in e.data)


def dataset(folder: Path) -> list[NLFTExample]:
    with (folder / "outputs/dataset.jsonl").open("rb") as file:
        rows = [row.example for row in read_rows(file)]
    assert all(isinstance(row, NLFTExample) for row in rows)
    return [row for row in rows if isinstance(row, NLFTExample)]

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.models import adapt, random_model
from worker.training.engine.checkpoint import Checkpointer, fingerprint
from worker.training.engine.optimizer import AdapterOptimizer
from worker.training.engine.progress import Progress
from worker.training.engine.runtime import RandomState
from worker.training.errors import CheckpointError
from worker.training.methods.base import Hyperparameters
from worker.training.spec import BaseModelRef, RuntimeSettings, TrainingSpec

SPEC = TrainingSpec(
    job_id="ftjob-1", base_model=BaseModelRef(name="m", path="/a", digest="d"), method="nlft", hyperparameters={}
)


def make(workspace: Path, *, marker: str = "f", rank: int = 4, steps: int = 0) -> Checkpointer:
    adapted = adapt(random_model("llama"), r=rank)
    optimizer = AdapterOptimizer(adapted, Hyperparameters(learning_rate=0.1), total_steps=10)
    for step in range(1, steps + 1):
        for parameter in adapted.parameters():
            parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
        optimizer.step(step)
    return Checkpointer(workspace, adapted, optimizer, marker)


def test_everything_comes_back(tmp_path: Path) -> None:
    saved = make(tmp_path, steps=2)
    progress = Progress(step=2, epoch=1, position=3, best_valid_loss=0.5, epochs_without_improvement=1)
    path = saved.save(progress)
    assert path == "checkpoints/step-000002"
    drawn = _draw()
    fresh = make(tmp_path)
    found, generators = fresh.restore(tmp_path / path)
    generators.restore()
    assert found == progress
    assert _draw() == drawn
    for mine, theirs in zip(fresh.adapted.parameters(), saved.adapted.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    moments = fresh.optimizer.state()
    assert all(torch.equal(moments[name], expected) for name, expected in saved.optimizer.state().items())


def _draw() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_files_are_safetensors_and_json(tmp_path: Path) -> None:
    folder = tmp_path / make(tmp_path, steps=1).save(Progress(step=1))
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    assert [path.name for path in folder.parent.iterdir()] == ["step-000001"]


def _truncate(folder: Path) -> None:
    path = folder / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _alter(folder: Path) -> None:
    path = folder / "state.json"
    path.write_bytes(path.read_bytes().replace(b'"epoch":0', b'"epoch":7'))


def _change_format(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _alter,
        _change_format,
        lambda folder: (folder / "random.safetensors").unlink(),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("[]"),
    ],
    ids=["truncated", "altered", "other format", "file missing", "manifest missing", "manifest broken"],
)
def test_damaged_checkpoints_are_refused(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    folder = tmp_path / make(tmp_path, steps=1).save(Progress(step=1))
    damage(folder)
    with pytest.raises(CheckpointError):
        make(tmp_path).restore(folder)


@pytest.mark.parametrize("other", [{"marker": "g"}, {"rank": 8}])
def test_checkpoints_of_another_run_are_refused(tmp_path: Path, other: dict[str, object]) -> None:
    folder = tmp_path / make(tmp_path, steps=1).save(Progress(step=1))
    with pytest.raises(CheckpointError):
        make(tmp_path, **other).restore(folder)  # type: ignore[arg-type] # one keyword at a time


def test_saving_again_replaces(tmp_path: Path) -> None:
    checkpointer = make(tmp_path, steps=1)
    checkpointer.save(Progress(step=1))
    folder = tmp_path / checkpointer.save(Progress(step=1, epoch=5))
    assert checkpointer.restore(folder)[0].epoch == 5


def test_fingerprint_covers_what_decides_the_result_and_nothing_else() -> None:
    same = SPEC.model_copy(
        update={
            "job_id": "ftjob-2",
            "runtime": RuntimeSettings(threads=8),
            "base_model": SPEC.base_model.model_copy(update={"path": "/b"}),
            "adapter": SPEC.adapter.model_copy(update={"cache_frozen_hidden_states": True}),
        }
    )
    assert fingerprint(same, "data") == fingerprint(SPEC, "data")
    assert fingerprint(SPEC.model_copy(update={"seed": 1}), "data") != fingerprint(SPEC, "data")
    assert fingerprint(SPEC, "other data") != fingerprint(SPEC, "data")


def test_random_state_survives_json() -> None:
    state = RandomState.capture()
    drawn = _draw()
    RandomState(json.loads(json.dumps(state.plain)), state.tensors).restore()
    assert _draw() == drawn

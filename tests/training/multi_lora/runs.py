"""Runs of different methods, ranks, targets and lengths, alone or as one group."""

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.training.builders import make_workspace, sum_rows
from worker.training.completions import NoCompletions
from worker.training.events import ResultEvent
from worker.training.multi_lora.group import JobGroup
from worker.training.multi_lora.member import Member
from worker.training.observer import NullObserver, Observer
from worker.training.spec import LoraSettings, TrainingSpec
from worker.training.trainer import train

ALL_TERMS = {"scoring": "online", "hindsight_weight": 1.0, "cluster": "similarity"}
# 12, 12, 15, 12 and 20 steps; those of the first two begin later, since their rows are graded first.
RUNS: Mapping[str, Mapping[str, Any]] = {
    "nlft": {"method": "nlft", "rows": 16, "epochs": 3},
    "all terms": {"method": "nlft", "adapter": LoraSettings(r=8, alpha=4.0), "own": ALL_TERMS, "rows": 16, "epochs": 3},
    "dropout": {"method": "supervised", "adapter": LoraSettings(r=2, dropout=0.2), "rows": 10, "epochs": 5},
    "plain": {"method": "supervised", "adapter": LoraSettings(r=5), "rows": 12, "epochs": 4},
    "few targets": {
        "method": "supervised",
        "adapter": LoraSettings(r=3, target_modules=["q_proj", "down_proj"], use_rslora=True),
        "rows": 40,
        "epochs": 2,
        "validation": 3,
    },
}


def begin(folder: Path, model: Path, run: Mapping[str, Any], **chosen: Any) -> TrainingSpec:
    """Write the inputs of ``run`` into ``folder`` and return its spec."""
    hyperparameters = {
        "n_epochs": run["epochs"],
        "batch_size": 4,
        "learning_rate": 1e-2,
        **run.get("own", {}),
        **chosen,
    }
    return make_workspace(
        folder,
        model,
        sum_rows(run["rows"]),
        sum_rows(run.get("validation", 0)),
        method=run["method"],
        adapter=run.get("adapter", LoraSettings(r=4)),
        hyperparameters=hyperparameters,
        seed=len(str(run)),
    )


def join(group: JobGroup, folder: Path, spec: TrainingSpec, observer: Observer | None = None) -> Future[ResultEvent]:
    """Add a run to ``group``."""

    def work(member: Member) -> ResultEvent:
        watched = member.watch(observer or NullObserver())
        return train(folder, spec, watched, member.ask(NoCompletions()), member)

    return group.add(work)


def adapter(folder: Path) -> dict[str, Tensor]:
    """Return the trained adapter's weights."""
    return load_file(folder / "outputs" / "adapter_model.safetensors")


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Return the largest difference between two adapters of one shape."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def are_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether two adapters have the same bits."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)

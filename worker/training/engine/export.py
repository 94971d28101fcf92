"""The artifacts of a finished run: a stock PEFT folder with its tokenizer, the metrics table and a manifest."""

from __future__ import annotations

import csv
import platform
import shutil
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from worker.training.engine.folders import describe_file, publish_folder, write_manifest
from worker.training.model.adapter import save_adapter
from worker.training.spec import OUTPUTS_DIR, TRAINING_FILE, VALIDATION_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from worker.training.engine.progress import StepRecord
    from worker.training.spec import TrainingSpec

METRICS_FILE = "metrics.csv"
# The first five are the published header of result files; both names of the accuracy are in use among clients.
_COLUMNS = (
    "step",
    "train_loss",
    "train_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "train_mean_token_accuracy",
    "epoch",
    "learning_rate",
    "grad_norm",
    "tokens",
    "seconds",
)
_LIBRARIES = ("nlft", "torch", "transformers", "peft")


def export_outputs(
    workspace: Path,
    spec: TrainingSpec,
    adapted: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    records: Sequence[StepRecord],
    metrics: Mapping[str, float],
    write_more: Callable[[Path], None],
) -> None:
    """Write ``outputs/`` in one go; an earlier one is replaced.

    Args:
        workspace: The run's folder.
        spec: What was run.
        adapted: The model with its trained adapter.
        tokenizer: Saved beside the adapter with its chat template.
        records: Figures of every step.
        metrics: Final figures, for the manifest.
        write_more: Adds further artifacts to the folder that it is given.
    """
    unfinished, target = workspace / f".{OUTPUTS_DIR}", workspace / OUTPUTS_DIR
    for leftover in (unfinished, target):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished.mkdir()
    save_adapter(adapted, unfinished)
    tokenizer.save_pretrained(unfinished)
    _write_metrics(unfinished / METRICS_FILE, records)
    write_more(unfinished)
    write_manifest(unfinished, _facts(workspace, spec, metrics))
    publish_folder(unfinished, target)


def _write_metrics(path: Path, records: Sequence[StepRecord]) -> None:
    own = sorted({name for record in records for name in record.extra})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_COLUMNS, *own])
        for record in records:
            values = (getattr(record, _RECORD_FIELDS.get(column, column)) for column in _COLUMNS)
            extra = (record.extra.get(name) for name in own)
            writer.writerow(["" if value is None else value for value in (*values, *extra)])


_RECORD_FIELDS = {"train_accuracy": "train_mean_token_accuracy"}


def _facts(workspace: Path, spec: TrainingSpec, metrics: Mapping[str, float]) -> dict[str, Any]:
    datasets = [TRAINING_FILE, *([VALIDATION_FILE] if spec.has_validation_file else [])]
    return {
        "format": 1,
        # Where the base model lay is the operator's business; its name and digest are the result's.
        "spec": spec.model_dump(mode="json", exclude={"runtime": True, "base_model": {"path"}}),
        "datasets": {name.rpartition("/")[2]: describe_file(workspace / name) for name in datasets},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
        "metrics": dict(metrics),
    }

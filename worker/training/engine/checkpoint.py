"""Checkpoints: everything that decides the rest of a run, as safetensors and JSON, never pickled.

adapter_config.json, adapter_model.safetensors    stock PEFT files
optimizer.safetensors                             AdamW moments and step counts by parameter
random.safetensors, state.json                    generators; data cursor, early stopping, figures so far
saliency.jsonl                                    what was recorded of the pinned rows so far
manifest.json                                     fingerprint of the run and digest of every file, written last
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from worker.training.engine.folders import publish_folder, read_manifest, write_manifest
from worker.training.engine.progress import Progress
from worker.training.engine.runtime import RandomState
from worker.training.errors import CheckpointError
from worker.training.model.adapter import load_adapter, save_adapter
from worker.training.spec import CHECKPOINTS_DIR

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from peft import PeftModel

    from worker.training.engine.optimizer import AdapterOptimizer
    from worker.training.spec import TrainingSpec

_OPTIMIZER_FILE = "optimizer.safetensors"
_RANDOM_FILE = "random.safetensors"
_STATE_FILE = "state.json"
_FORMAT = 1


class _State(msgspec.Struct):
    progress: Progress
    generators: dict[str, list[object]]


@dataclass(frozen=True, slots=True)
class Checkpointer:
    """Saves and restores the state of one run.

    Attributes:
        workspace: The run's folder.
        adapted: The model with its adapter.
        optimizer: Its optimizer.
        fingerprint: Of everything that decides the result, see ``fingerprint``.
        companions: Files that travel with the state, by their name in a checkpoint; absent ones are left out.
    """

    workspace: Path
    adapted: PeftModel
    optimizer: AdapterOptimizer
    fingerprint: str
    companions: Mapping[str, Path] = field(default_factory=dict)

    def save(self, progress: Progress) -> str:
        """Write a checkpoint and return its path relative to the workspace; one of the same step is replaced."""
        name = f"step-{progress.step:06d}"
        parent = self.workspace / CHECKPOINTS_DIR
        unfinished, target = parent / f".{name}", parent / name
        for leftover in (unfinished, target):
            shutil.rmtree(leftover, ignore_errors=True)
        unfinished.mkdir(parents=True)
        generators = RandomState.capture()
        save_adapter(self.adapted, unfinished)
        save_file(self.optimizer.state(), unfinished / _OPTIMIZER_FILE)
        save_file(generators.tensors, unfinished / _RANDOM_FILE)
        (unfinished / _STATE_FILE).write_bytes(msgspec.json.encode(_State(progress, generators.plain)))
        for companion, path in self.companions.items():
            if path.exists():
                shutil.copyfile(path, unfinished / companion)
        write_manifest(unfinished, {"format": _FORMAT, "step": progress.step, "fingerprint": self.fingerprint})
        publish_folder(unfinished, target)
        return f"{CHECKPOINTS_DIR}/{name}"

    def restore(self, folder: Path) -> tuple[Progress, RandomState]:
        """Load adapter and optimizer from ``folder``; return the progress and the generators' state to continue with.

        Raises:
            CheckpointError: The folder is incomplete, damaged, or of another run.
        """
        manifest = read_manifest(folder)
        if manifest.get("format") != _FORMAT or manifest.get("fingerprint") != self.fingerprint:
            raise CheckpointError("the checkpoint belongs to another spec, data file or version; start without it")
        try:
            load_adapter(self.adapted, folder)
            self.optimizer.load_state(load_file(folder / _OPTIMIZER_FILE))
            state = msgspec.json.decode((folder / _STATE_FILE).read_bytes(), type=_State)
            for companion, path in self.companions.items():
                if (folder / companion).exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(folder / companion, path)
            return state.progress, RandomState(state.generators, load_file(folder / _RANDOM_FILE))
        except (OSError, KeyError, msgspec.MsgspecError, SafetensorError) as error:
            raise CheckpointError("the checkpoint cannot be read; resume from an earlier one") from error


def fingerprint(spec: TrainingSpec, training_sha256: str) -> str:
    """Return a digest of what decides the result: the spec without job, devices and runtime, and the training file."""
    undeciding = {"job_id": True, "n_gpus": True, "runtime": True}
    deciding = spec.model_dump(
        mode="json", exclude={**undeciding, "base_model": {"path"}, "adapter": {"cache_frozen_hidden_states"}}
    )
    text = json.dumps([deciding, training_sha256], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

"""The scores of a run's cached passes: from its checkpoint or from earlier runs, made where they lack, renewed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.training.building.scores import KeptScores
from worker.training.engine.score_cache import load_cached, save_cached
from worker.training.errors import CheckpointError
from worker.training.events import MessageEvent, PhaseEvent

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from worker.training.engine.progress import Progress
    from worker.training.engine.pulse import Pulse
    from worker.training.engine.scoring import Scorer
    from worker.training.model.base_model import LoadedModel
    from worker.training.observer import Observer
    from worker.training.preparation import PreparedData, Recipe
    from worker.training.spec import TrainingSpec

_FILE = "scores.safetensors"


class ContextScores:
    """The cached passes of one run.

    They travel with every checkpoint, so that a resumed run weighs tokens by the very same figures: those of the base
    model, or of the model as it was before the running epoch.

    Args:
        workspace: The run's folder.
        spec: What is run.
        recipe: Its method and hyperparameters.
        data: Its rows, which receive the scores.
        loaded: Its base model.
    """

    def __init__(
        self, workspace: Path, spec: TrainingSpec, recipe: Recipe, data: PreparedData, loaded: LoadedModel
    ) -> None:
        passes = recipe.method.passes(recipe.hyperparameters)
        self._passes = [scoring_pass for scoring_pass in passes if scoring_pass.cached]
        self._renews = any(scoring_pass.renewed for scoring_pass in self._passes)
        self._examples = [*data.training, *data.validation]
        self._workspace = workspace
        self._base_digest = spec.base_model.digest
        self._precision = f"{loaded.model.dtype} {loaded.device.type}"
        self._path = workspace / _FILE
        self._epoch: int | None = None

    @property
    def companions(self) -> Mapping[str, Path]:
        """Files that a checkpoint must carry along, by their name in it."""
        return {_FILE: self._path} if self._passes else {}

    def prepare(self, scorer: Scorer, progress: Progress, pulse: Pulse, observer: Observer) -> bool:
        """Give every row its scores for the epoch of ``progress``, unless it has them; return whether any was made.

        Call it at the start and before every epoch, inside ``scorer.attention()``.

        Raises:
            CheckpointError: The run continues in mid-epoch, from a checkpoint without that epoch's scores.
            TrainingInterrupted: The observer asked for an early end.
            DeviceOutOfMemoryError: A single text does not fit the device.
        """
        if not self._passes or self._epoch == progress.epoch or (self._epoch is not None and not self._renews):
            return False
        is_first, self._epoch = self._epoch is None, progress.epoch
        if is_first and progress.step and not (self._renews and progress.position == 0):
            if load_cached(self._path, self._examples, self._passes):
                return False
            if self._renews:
                raise CheckpointError("the checkpoint lacks the scores of its epoch; resume from an earlier one")
        observer.emit(PhaseEvent("scoring"))
        self._score(scorer, pulse, observer)
        save_cached(self._path, self._examples, self._passes)
        return True

    def _score(self, scorer: Scorer, pulse: Pulse, observer: Observer) -> None:
        for example in self._examples:
            example.cached.clear()
        store = None if self._renews else KeptScores(self._workspace, self._base_digest, self._precision, observer)
        filled = scorer.fill_cache(self._examples, self._passes, pulse.beat, store)
        if filled.recalled:
            message = f"{filled.recalled} of {filled.recalled + filled.scored} contexts had been scored before."
        else:
            message = f"{filled.scored} contexts were scored."
        observer.emit(MessageEvent("info", message, {"recalled": filled.recalled, "scored": filled.scored}))

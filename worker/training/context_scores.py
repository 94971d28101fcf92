"""The scores of a run's cached passes: from its checkpoint or from earlier runs, made where they lack, renewed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.training.building.scores import KeptScores
from worker.training.engine.cache_filling import CacheFill
from worker.training.engine.parallel import share_out
from worker.training.engine.score_cache import load_cached, save_cached, sequence_digest
from worker.training.errors import CheckpointError
from worker.training.events import MessageEvent, PhaseEvent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from worker.training.engine.parallel import Ranks
    from worker.training.engine.prepared import PreparedExample
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

    def prepare(self, scorer: Scorer, progress: Progress, ranks: Ranks, *, pulse: Pulse, observer: Observer) -> bool:
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
            if self._load(ranks):
                return False
            if self._renews:
                raise CheckpointError("the checkpoint lacks the scores of its epoch; resume from an earlier one")
        observer.emit(PhaseEvent("scoring"))
        for example in self._examples:
            example.cached.clear()
        teller = observer if ranks.is_first else None
        store = None if self._renews else KeptScores(self._workspace, self._base_digest, self._precision, teller)
        filled = self._score(scorer, ranks, pulse, store)
        told = f"{filled.recalled} of {filled.recalled + filled.scored} contexts had been scored before."
        message = told if filled.recalled else f"{filled.scored} contexts were scored."
        observer.emit(MessageEvent("info", message, {"recalled": filled.recalled, "scored": filled.scored}))
        ranks.on_first(lambda: save_cached(self._path, self._examples, self._passes))
        return True

    def _load(self, ranks: Ranks) -> bool:
        """Give the rows the scores that came with the checkpoint, which the first rank has."""

        def load() -> list[dict[str, NDArray[np.float32]]] | None:
            has_loaded = load_cached(self._path, self._examples, self._passes)
            return [example.cached for example in self._examples] if has_loaded else None

        loaded = ranks.on_first(load)
        for example, cached in zip(self._examples, loaded or [], strict=bool(loaded)):
            example.cached.update(cached)
        return loaded is not None

    def _score(self, scorer: Scorer, ranks: Ranks, pulse: Pulse, store: KeptScores | None) -> CacheFill:
        """Let every rank score a share of the rows and all have the scores of all; the first one keeps them."""
        shares = share_out([example.tokens(self._passes) for example in self._examples], ranks.size)
        own = [self._examples[index] for index in shares[ranks.rank]]

        def score_share() -> tuple[CacheFill, list[dict[str, NDArray[np.float32]]]]:
            filled = scorer.fill_cache(own, self._passes, pulse.beat, store)
            return filled, [example.cached for example in own]

        parts = ranks.gather(score_share)
        for share, (_, scores) in zip(shares, parts, strict=True):
            for index, found in zip(share, scores, strict=True):
                self._examples[index].cached.update(found)
        if store is not None and ranks.is_first:
            for rank in range(1, ranks.size):
                self._keep([self._examples[index] for index in shares[rank]], store)
        return CacheFill(sum(fill.recalled for fill, _ in parts), sum(fill.scored for fill, _ in parts))

    def _keep(self, examples: Sequence[PreparedExample], store: KeptScores) -> None:
        """Keep what other ranks have scored."""
        for example in examples:
            for scoring_pass in self._passes:
                sequence = example.rendered.sequences.get(scoring_pass.sequence)
                if sequence is not None and store.find(digest := sequence_digest(sequence)) is None:
                    store.keep(digest, example.cached[scoring_pass.name])
        store.flush()

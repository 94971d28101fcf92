"""The parts of one run, put together from a workspace and a spec; what happens to them is in ``trainer``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from worker.training.building.kept_rows import KeptRows
from worker.training.chronicle import Chronicle
from worker.training.context_scores import ContextScores
from worker.training.data.rendering import ModelRenderer
from worker.training.engine.checkpoint import Checkpointer, fingerprint
from worker.training.engine.folders import describe_file
from worker.training.engine.hidden_cache import HiddenStateCache
from worker.training.engine.memory import choose_micro_batch_tokens
from worker.training.engine.optimizer import AdapterOptimizer
from worker.training.engine.probe import describe_uncached
from worker.training.engine.progress import Progress
from worker.training.engine.pulse import Pulse
from worker.training.engine.scoring import Scorer
from worker.training.engine.step import Stepper
from worker.training.events import MessageEvent, Phase, PhaseEvent
from worker.training.model.adapter import attach_adapter
from worker.training.model.base_model import LoadedModel, load_base_model
from worker.training.model.lora import describe_unfused
from worker.training.preparation import (
    PreparedData,
    Recipe,
    build_rows,
    choose_recipe,
    prepare_data,
    read_training_rows,
)
from worker.training.spec import TRAINING_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from peft import PeftModel

    from worker.training.completions import Completions
    from worker.training.engine.forward import Forward
    from worker.training.engine.parallel import Ranks
    from worker.training.observer import Observer
    from worker.training.spec import BaseModelRef, RuntimeSettings, TrainingSpec


@dataclass(slots=True)
class Run:
    """All parts of one run, and what of its state was told or saved last."""

    workspace: Path
    spec: TrainingSpec
    ranks: Ranks
    observer: Observer
    pulse: Pulse
    loaded: LoadedModel
    renderer: ModelRenderer
    recipe: Recipe
    data: PreparedData
    adapted: PeftModel
    scorer: Scorer
    stepper: Stepper
    optimizer: AdapterOptimizer
    checkpointer: Checkpointer
    chronicle: Chronicle
    scores: ContextScores
    total_steps: int
    progress: Progress
    saved_step: int = 0

    def enter(self, phase: Phase) -> None:
        """Tell that ``phase`` begins."""
        self.observer.emit(PhaseEvent(phase))


class ModelSource(Protocol):
    """Where a run gets its base model from, and how its passes are run."""

    def load(self, ref: BaseModelRef, runtime: RuntimeSettings) -> LoadedModel:
        """Return the frozen base model that ``ref`` pins, its layers free for an adapter of this run alone."""
        ...

    def choose_forward(self, adapted: PeftModel) -> Forward | None:
        """Return how to run the adapted model; None leaves it to the engine."""
        ...


class OwnModel:
    """A run that has the process to itself loads its own base model."""

    def load(self, ref: BaseModelRef, runtime: RuntimeSettings) -> LoadedModel:
        """Load the model; see ``load_base_model``."""
        return load_base_model(ref, runtime)

    def choose_forward(self, adapted: PeftModel) -> None:
        """Leave it to the engine."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a run is given besides its workspace and spec: who hears of it, who helps, and who takes part."""

    observer: Observer
    completions: Completions
    models: ModelSource
    ranks: Ranks


def prepare_run(workspace: Path, spec: TrainingSpec, given: Surroundings) -> Run:
    """Load the model, read and build the rows, and put the run together.

    Rows are read, built and rendered by the first of the ``ranks``, which hands them to the others.

    Raises:
        TrainingError: The run cannot be done; see ``errors`` for the kinds.
    """
    observer, ranks = given.observer, given.ranks
    raw = ranks.on_first(lambda: read_training_rows(workspace, spec))
    loaded = ranks.agree(lambda: given.models.load(spec.base_model, ranks.settings(spec.runtime)))
    renderer = ModelRenderer(loaded.tokenizer)
    rows = ranks.on_first(
        lambda: build_rows(workspace, spec, loaded, renderer, raw, observer=observer, completions=given.completions)
    )
    recipe = ranks.agree(lambda: choose_recipe(spec, loaded, rows, observer))
    data = ranks.on_first(lambda: prepare_data(workspace, spec, loaded, recipe, renderer, rows=rows, observer=observer))
    parts = _Parts(loaded, renderer, recipe, data)
    return ranks.agree(lambda: _put_together(workspace, spec, parts, given))


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a run is put together from: the base model, its renderer, how to train, and the rows."""

    loaded: LoadedModel
    renderer: ModelRenderer
    recipe: Recipe
    data: PreparedData


def _make_hidden_cache(spec: TrainingSpec) -> tuple[HiddenStateCache | None, Sequence[str]]:
    """Return what is to keep hidden states, where the run asks for it and may, and why it may not."""
    if not spec.adapter.cache_frozen_hidden_states:
        return None, ()
    limit = spec.runtime.hidden_state_cache_bytes
    return (HiddenStateCache(limit), ()) if limit else (None, (describe_uncached("they are given no memory here"),))


def _put_together(workspace: Path, spec: TrainingSpec, parts: _Parts, given: Surroundings) -> Run:
    observer, ranks = given.observer, given.ranks
    loaded, recipe, data = parts.loaded, parts.recipe, parts.data
    adapted = attach_adapter(loaded.model, spec.adapter, base_model_name=spec.base_model.name, seed=spec.seed)
    micro_batch_tokens = choose_micro_batch_tokens(spec.runtime, loaded.device)
    chosen = recipe.hyperparameters
    hidden_states, limitations = _make_hidden_cache(spec)
    scorer = Scorer(
        adapted,
        micro_batch_tokens=micro_batch_tokens,
        forward=given.models.choose_forward(adapted),
        passes=recipe.method.passes(chosen),
        hidden_states=hidden_states,
    )
    scorer.memory.checkpoint_layers(spec.runtime.checkpointed_layers)
    total_steps = chosen.n_epochs * -(-len(data.training) // chosen.batch_size)
    optimizer = AdapterOptimizer(adapted, chosen, total_steps=total_steps)
    chronicle = Chronicle(workspace, spec, recipe, data, loaded.tokenizer)
    training_sha256 = str(describe_file(workspace / TRAINING_FILE)["sha256"])
    state = fingerprint(spec, training_sha256)
    scores = ContextScores(workspace, spec, recipe, data, loaded)
    files = {**chronicle.companions, **scores.companions, **KeptRows.of_workspace(workspace).files}
    for limitation in (*limitations, *scorer.limitations, *describe_unfused(adapted)):
        observer.emit(MessageEvent("warn", limitation))
    return Run(
        workspace=workspace,
        spec=spec,
        ranks=ranks,
        observer=observer,
        pulse=Pulse(observer),
        loaded=loaded,
        renderer=parts.renderer,
        recipe=recipe,
        data=data,
        adapted=adapted,
        scorer=scorer,
        stepper=Stepper(scorer, recipe.method, chosen, ranks),
        optimizer=optimizer,
        # Files of the run are the first rank's; the others only read the tensors of a checkpoint.
        checkpointer=Checkpointer(workspace, adapted, optimizer, state, files if ranks.is_first else {}),
        chronicle=chronicle,
        scores=scores,
        total_steps=total_steps,
        progress=Progress(memory=scorer.memory.rung),
    )

"""The parts of one run, put together from a workspace and a spec; what happens to them is in ``trainer``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.training.building.kept_rows import KeptRows
from worker.training.chronicle import Chronicle
from worker.training.data.rendering import ModelRenderer
from worker.training.engine.checkpoint import Checkpointer, fingerprint
from worker.training.engine.folders import describe_file
from worker.training.engine.optimizer import AdapterOptimizer
from worker.training.engine.progress import Progress
from worker.training.engine.pulse import Pulse
from worker.training.engine.runtime import choose_micro_batch_tokens
from worker.training.engine.scoring import Scorer
from worker.training.engine.step import Stepper
from worker.training.events import MessageEvent, Phase, PhaseEvent
from worker.training.model.adapter import attach_adapter
from worker.training.model.base_model import LoadedModel, load_base_model
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
    from pathlib import Path

    from peft import PeftModel

    from worker.training.completions import Completions
    from worker.training.engine.parallel import Ranks
    from worker.training.observer import Observer
    from worker.training.spec import TrainingSpec


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
    total_steps: int
    progress: Progress
    micro_batch_tokens: int
    saved_step: int = 0

    def enter(self, phase: Phase) -> None:
        """Tell that ``phase`` begins."""
        self.observer.emit(PhaseEvent(phase))


def prepare_run(workspace: Path, spec: TrainingSpec, observer: Observer, completions: Completions, ranks: Ranks) -> Run:
    """Load the model, read and build the rows, and put the run together.

    Rows are read, built and rendered by the first of the ``ranks``, which hands them to the others.

    Raises:
        TrainingError: The run cannot be done; see ``errors`` for the kinds.
    """
    raw = ranks.on_first(lambda: read_training_rows(workspace, spec))
    loaded = ranks.agree(lambda: load_base_model(spec.base_model, ranks.settings(spec.runtime)))
    renderer = ModelRenderer(loaded.tokenizer)
    rows = ranks.on_first(
        lambda: build_rows(workspace, spec, loaded, renderer, raw, observer=observer, completions=completions)
    )
    recipe = ranks.agree(lambda: choose_recipe(spec, loaded, rows, observer))
    data = ranks.on_first(lambda: prepare_data(workspace, spec, loaded, recipe, renderer, rows=rows, observer=observer))
    return ranks.agree(lambda: _put_together(workspace, spec, observer, Parts(loaded, renderer, recipe, data), ranks))


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run is put together from: the base model, its renderer, how to train, and the rows."""

    loaded: LoadedModel
    renderer: ModelRenderer
    recipe: Recipe
    data: PreparedData


def _put_together(workspace: Path, spec: TrainingSpec, observer: Observer, parts: Parts, ranks: Ranks) -> Run:
    loaded, recipe, data = parts.loaded, parts.recipe, parts.data
    adapted = attach_adapter(loaded.model, spec.adapter, base_model_name=spec.base_model.name, seed=spec.seed)
    scorer = Scorer(adapted, micro_batch_tokens=choose_micro_batch_tokens(spec.runtime, loaded.device))
    chosen = recipe.hyperparameters
    total_steps = chosen.n_epochs * -(-len(data.training) // chosen.batch_size)
    optimizer = AdapterOptimizer(adapted, chosen, total_steps=total_steps)
    chronicle = Chronicle(workspace, spec, recipe, data.rows, data.training, tokenizer=loaded.tokenizer)
    training_sha256 = str(describe_file(workspace / TRAINING_FILE)["sha256"])
    state = fingerprint(spec, training_sha256)
    # Files of the run are the first rank's; the others only read the tensors of a checkpoint.
    files = {**chronicle.companions, **KeptRows.of_workspace(workspace).files} if ranks.is_first else {}
    if scorer.limitation is not None:
        observer.emit(MessageEvent("warn", scorer.limitation))
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
        checkpointer=Checkpointer(workspace, adapted, optimizer, state, files),
        chronicle=chronicle,
        total_steps=total_steps,
        progress=Progress(),
        micro_batch_tokens=scorer.micro_batch_tokens,
    )

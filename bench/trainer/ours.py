"""The product's own steps, through the objects that a run uses: adapter, scorer, stepper, optimizer, methods."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.trainer.points import ADAPTER
from worker.training.engine.hidden_cache import HiddenStateCache
from worker.training.engine.memory import choose_micro_batch_tokens
from worker.training.engine.optimizer import AdapterOptimizer
from worker.training.engine.prepared import PreparedExample
from worker.training.engine.scoring import Scorer
from worker.training.engine.step import Stepper
from worker.training.methods import METHODS
from worker.training.model.adapter import attach_adapter
from worker.training.spec import LoraSettings, RuntimeSettings
from worker.training.types import RenderedExample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from bench.trainer.pace import Pace
    from bench.trainer.points import Point, Precision
    from worker.training.methods.base import Hyperparameters, Method

_TOTAL_STEPS = 1000
_HIDDEN_STATE_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Trainer:
    """A run of the product, up to its first step."""

    scorer: Scorer
    stepper: Stepper
    optimizer: AdapterOptimizer
    method: Method
    hyperparameters: Hyperparameters
    examples: list[PreparedExample]

    def train(self, step: int) -> None:
        """Make one optimizer step."""
        self.stepper.train(self.examples, self.optimizer, step, lambda: None)


def set_up(
    point: Point,
    name: str,
    settings: Mapping[str, Any] | None = None,
    *,
    precision: Precision | None = None,
    shares_prefixes: bool = True,
    lends_prefixes: bool = True,
    adapted_share: float = 1.0,
    keeps_hidden_states: bool = False,
    row_by_row: bool = False,
) -> Trainer:
    """Return the method called ``name`` with ``settings``, ready to train the rows of ``point``.

    Args:
        point: Where.
        name: Of the method.
        settings: Its hyperparameters.
        precision: Of the base model; None: the point's own.
        shares_prefixes: What sequences of a pass begin with alike is computed once.
        lends_prefixes: What scored sequences begin with is taken from the training pass.
        adapted_share: Of the decoder layers, from the top, that have an adapter.
        keeps_hidden_states: What leaves the layers below is kept from step to step.
        row_by_row: Every row is a micro-batch.
    """
    model = point.load(precision)
    adapted = attach_adapter(model, _adapter(model, adapted_share), base_model_name=point.name, seed=0)
    runtime = RuntimeSettings(device=point.device, threads=1)
    micro_batch_tokens = 1 if row_by_row else choose_micro_batch_tokens(runtime, adapted.device)
    method = METHODS[name]
    hyperparameters = method.hyperparameters_type.model_validate(dict(settings or {}))
    scorer = Scorer(
        adapted,
        micro_batch_tokens=micro_batch_tokens,
        shares_prefixes=shares_prefixes,
        passes=method.passes(hyperparameters) if lends_prefixes else (),
        hidden_states=HiddenStateCache(_HIDDEN_STATE_BYTES) if keeps_hidden_states else None,
    )
    return Trainer(
        scorer=scorer,
        stepper=Stepper(scorer, method, hyperparameters),
        optimizer=AdapterOptimizer(adapted, hyperparameters, total_steps=_TOTAL_STEPS),
        method=method,
        hyperparameters=hyperparameters,
        examples=[_prepare(line, row, name) for line, row in enumerate(point.rows(), start=1)],
    )


def _adapter(model: PreTrainedModel, share: float) -> LoraSettings:
    count = max(1, round(share * model.config.get_text_config().num_hidden_layers))
    return ADAPTER if share == 1 else ADAPTER.model_copy(update={"layers_to_transform": [*range(-count, 0)]})


def _prepare(line: int, row: RenderedExample, name: str) -> PreparedExample:
    trained = RenderedExample({"completion": row.sequences["base"]}) if name == "supervised" else row
    return PreparedExample(line, trained)


def train(point: Point, pace: Pace, *, method: str, **options: Any) -> None:
    """Train with the product; ``options`` are those of ``set_up``."""
    trainer = set_up(point, method, **options)
    passes = trainer.method.passes(trainer.hyperparameters)
    with trainer.scorer.attention():
        trainer.scorer.fill_cache(trainer.examples, passes, lambda _done, _total: None)
        for step in range(1, pace.steps + 1):
            with pace.step():
                trainer.train(step)


def score(point: Point, pace: Pace) -> None:
    """Score the contexts of NLFT alone, as its online mode does beside training."""
    trainer = set_up(point, "nlft", {"scoring": "online"})
    passes = [replace(one, with_grad=False) for one in trainer.method.passes(trainer.hyperparameters)]
    contexts = [one for one in passes if one.name != trainer.method.main_pass]
    with trainer.scorer.attention():
        for _ in range(pace.steps):
            with pace.step():
                trainer.scorer.measure(trainer.examples, contexts)

"""A step waits for its device once, for its figures: the meta device has no values, so that every other read fails."""

from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from tests.fixtures.tiny_models import build_tokenizer
from tests.training.builders import question
from tests.training.engine.prepared import GradientKeeper
from tests.training.models import adapt, inner, random_model
from worker.training.data.examples import NLFTExample
from worker.training.data.rendering import ModelRenderer
from worker.training.engine import step
from worker.training.engine.head import find_head
from worker.training.engine.prepared import PreparedExample
from worker.training.engine.probe import choose_forward
from worker.training.engine.scoring import Scorer
from worker.training.methods import METHODS
from worker.training.methods.base import Hyperparameters, Method

RENDERER = ModelRenderer(build_tokenizer())
ROWS = [
    NLFTExample(question("1 + 2?"), response="It is 3, the sum.", reference="#### 3", correct=True),
    NLFTExample(question("2 + 2?"), response="It is 5, no?", reference="#### 4", judgment="It is 4.", correct=False),
    NLFTExample(question("4 + 2?"), response="Six.", reference="#### 6", correct=True),
]
BUDGET = 60  # a row or two a micro-batch


def on_meta(method: Method, chosen: Hyperparameters) -> tuple[Scorer, GradientKeeper, list[PreparedExample]]:
    """Return what a step needs, the model having lost its values once contexts were scored and a forward pass found."""
    adapted = adapt(random_model("llama"))
    passes = method.passes(chosen)
    forward = choose_forward(inner(adapted), lends=True)
    rows = [PreparedExample(line, method.render(row, RENDERER, chosen)) for line, row in enumerate(ROWS, start=1)]
    scorer = Scorer(adapted, micro_batch_tokens=BUDGET, forward=forward)
    with scorer.attention():
        scorer.fill_cache(rows, passes, lambda _done, _total: None)
    keeper = GradientKeeper(adapted, chosen, total_steps=1)
    adapted.to("meta")
    keeper._named = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    forward = replace(forward, head=find_head(inner(adapted)))
    return Scorer(adapted, micro_batch_tokens=BUDGET, forward=forward, passes=passes), keeper, rows


def record_figures(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return a list that receives what a step would read at its end."""
    figures: list[Tensor] = []

    def summarize(totals: Any, examples: int, *, grad_norm: Tensor) -> step.StepResult:
        figures.extend((*totals.losses, *totals.hits, grad_norm))
        return step.StepResult(0.0, 0.0, 0.0, totals.tokens, {}, [0.0] * examples, [])

    monkeypatch.setattr(step, "_summarize", summarize)
    return figures


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {}) for name in METHODS),
        ("nlft", {"scoring": "online"}),
        ("nlft", {"scoring": "online", "hindsight_weight": 1.0, "after_error": "mask"}),
    ],
)
def test_step_reads_its_figures_alone(name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    method = METHODS[name]
    chosen = method.hyperparameters_type.model_validate(settings)
    scorer, keeper, rows = on_meta(method, chosen)
    figures = record_figures(monkeypatch)
    with scorer.attention():
        step.Stepper(scorer, method, chosen).train(rows, keeper, 1, lambda: None)
    assert len(figures) > 3  # of several micro-batches
    assert all(tensor.is_meta for tensor in figures)
    assert all(weight.grad is not None for weight in keeper._named.values())


def test_walks_to_neighbours_read_on_their_way() -> None:
    method = METHODS["nlft"]
    chosen = method.hyperparameters_type.model_validate({"cluster": "distance"})
    scorer, keeper, rows = on_meta(method, chosen)
    with scorer.attention(), pytest.raises(NotImplementedError, match="meta"):
        step.Stepper(scorer, method, chosen).train(rows, keeper, 1, lambda: None)

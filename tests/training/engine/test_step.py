"""Accumulation is exact; nothing broken is ever stepped; memory running short costs time, not results."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from tests.training.builders import documents
from tests.training.engine.prepared import (
    BUDGET,
    GradientKeeper,
    completions,
    limit_activations,
    limit_memory,
    make_scorer,
    prepare,
)
from tests.training.models import gradients, inner
from worker.training.engine.optimizer import AdapterOptimizer
from worker.training.engine.prepared import PreparedExample
from worker.training.engine.scoring import Scorer
from worker.training.engine.step import Stepper
from worker.training.errors import DeviceOutOfMemoryError, NonFiniteLossError, TrainingCancelled
from worker.training.methods.base import Hyperparameters, Method
from worker.training.methods.nlft import NLFT, NLFTHyperparameters
from worker.training.methods.supervised import Supervised, SupervisedHyperparameters
from worker.training.types import RenderedExample, ScoringPass, TokenSequence

ROWS = completions(9, 21, 5, 14, 30)


def nothing() -> None:
    pass


def weights(adapted: PeftModel) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in adapted.parameters() if parameter.requires_grad]


def trainer(
    budget: int = BUDGET, method: Method | None = None, hyperparameters: Hyperparameters | None = None, **adapter: Any
) -> tuple[PeftModel, Scorer, Stepper, AdapterOptimizer]:
    chosen = hyperparameters or SupervisedHyperparameters(learning_rate=0.1, warmup_ratio=0.0)
    adapted, scorer = make_scorer(budget, **adapter)
    optimizer = AdapterOptimizer(adapted, chosen, total_steps=10)
    return adapted, scorer, Stepper(scorer, method or Supervised(), chosen), optimizer


def gradient_of(method: Method, chosen: Hyperparameters, rows: list[Any], budget: int) -> dict[str, Tensor]:
    adapted, scorer = make_scorer(budget)
    keeper = GradientKeeper(adapted, chosen, total_steps=1)
    with scorer.attention():
        Stepper(scorer, method, chosen).train(rows, keeper, 1, nothing)
    return gradients(adapted)


NLFT_ROWS = prepare(
    [{"base": 14, "reference": 20}, {"base": 9, "reference": 15, "judgment": 11}, {"base": 30, "reference": 33}],
    [{"right": 1.0}, {"right": 0.0}, {"right": 0.0}],
)


@pytest.mark.parametrize(
    ("method", "chosen", "rows"),
    [
        (Supervised(), SupervisedHyperparameters(), ROWS),
        (NLFT(), NLFTHyperparameters(scoring="online", hindsight_weight=1.0, max_grad_norm=0.0), NLFT_ROWS),
    ],
    ids=["supervised", "nlft with two passes of gradient"],
)
def test_gradient_does_not_depend_on_the_micro_batches(
    method: Method, chosen: Hyperparameters, rows: list[Any]
) -> None:
    # In each NLFT context the scored tokens are the same count, as rendering guarantees.
    rows = _same_scored(rows)
    whole = gradient_of(method, chosen, rows, BUDGET)
    for budget in (1, 25, 50):
        parts = gradient_of(method, chosen, rows, budget)
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-7)


@pytest.fixture
def beginning_alike() -> list[PreparedExample]:
    """Two long instructions with three short rows each, in turn."""
    stems = [text.input_ids for text in documents(60, 50, seed=3)]
    tails = [text.input_ids for text in documents(10, 12, 7, 9, 8, 11, seed=4)]
    ids = [np.concatenate([stems[index % 2], tail]) for index, tail in enumerate(tails)]
    sequences = [TokenSequence(own, np.arange(len(own) - 5, len(own), dtype=np.int32)) for own in ids]
    return [PreparedExample(line, RenderedExample({"completion": s})) for line, s in enumerate(sequences, start=1)]


def test_rows_that_begin_alike_are_trained_together(
    beginning_alike: list[PreparedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A micro-batch counts what its rows share once; what a step reports stays in the order of its rows."""
    rows = beginning_alike
    apart = gradient_of(Supervised(), SupervisedHyperparameters(), rows, 1)
    adapted, scorer, stepper, _ = trainer(budget=35)
    keeper = GradientKeeper(adapted, SupervisedHyperparameters(), total_steps=1)
    with scorer.attention():
        losses = [stepper.evaluate([row], lambda _done, _total: None).loss for row in rows]
        together = _keep_lines(scorer, monkeypatch)
        begun: list[tuple[int, int]] = []
        stepper.evaluate(rows, lambda done, total: begun.append((done, total)))
        found = stepper.train(rows, keeper, 1, nothing)
    assert together == [[1, 3, 5], [2, 4, 6]] * 2
    assert begun == [(0, 6), (3, 6)]
    assert found.losses == pytest.approx(losses, rel=1e-5)
    for name, gradient in gradients(adapted).items():
        torch.testing.assert_close(gradient, apart[name], rtol=1e-4, atol=1e-7)


def test_short_memory_parts_rows_that_begin_alike_before_it_checkpoints_layers(
    beginning_alike: list[PreparedExample],
) -> None:
    """The longest row says nothing: three of 57 to 70 tokens share a micro-batch of 85 with a budget of 25."""
    adapted, scorer, stepper, optimizer = trainer(budget=35)
    limit_memory(adapted, 75)
    with scorer.attention():
        stepper.train(beginning_alike, optimizer, 1, nothing)
    assert scorer.memory.rung.checkpointed_layers == 0
    assert scorer.memory.micro_batch_tokens <= 17


def _keep_lines(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Return a list that receives the lines of every micro-batch."""
    kept: list[list[int]] = []
    score = scorer.score

    def keep(examples: Sequence[PreparedExample], passes: Sequence[ScoringPass]) -> Any:
        kept.append([example.line for example in examples])
        return score(examples, passes)

    monkeypatch.setattr(scorer, "score", keep)
    return kept


def _same_scored(rows: list[Any]) -> list[Any]:
    for row in rows:
        scored = min(len(sequence.scored) for sequence in row.rendered.sequences.values())
        row.rendered.sequences.update(
            {n: type(s)(s.input_ids, s.scored[-scored:]) for n, s in row.rendered.sequences.items()}
        )
    return rows


def test_figures_of_a_step_are_means_over_its_examples() -> None:
    adapted, scorer, stepper, optimizer = trainer(budget=25)
    with scorer.attention():
        evaluated = stepper.evaluate(ROWS, lambda _done, _total: None)
        losses = [stepper.evaluate([row], lambda _done, _total: None).loss for row in ROWS]
        stepped = stepper.train(ROWS, optimizer, 1, nothing)
    assert evaluated.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert stepped.loss == pytest.approx(evaluated.loss, rel=1e-5)
    assert stepped.tokens == 9 + 21 + 5 + 14 + 30
    assert stepped.grad_norm > 0
    assert gradients(adapted) == {}


def test_loss_falls() -> None:
    _, scorer, stepper, optimizer = trainer()
    with scorer.attention():
        losses = [stepper.train(ROWS[:1], optimizer, step, nothing).loss for step in range(1, 9)]
    assert losses[-1] < losses[0] - 0.1  # the logits of a tiny random head move little


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_nothing_and_names_the_step(broken: float) -> None:
    adapted, scorer, stepper, optimizer = trainer()
    inner(adapted).get_output_embeddings().weight.data[:, 0] = broken
    before = weights(adapted)
    with scorer.attention(), pytest.raises(NonFiniteLossError, match="step 7") as caught:
        stepper.train(ROWS, optimizer, 7, nothing)
    assert caught.value.param == "method.supervised.hyperparameters.learning_rate"
    assert all(torch.equal(a, b) for a, b in zip(weights(adapted), before, strict=True))
    assert gradients(adapted) == {}


def test_short_memory_halves_the_micro_batch_and_repeats_the_step() -> None:
    results = []
    for tokens in (BUDGET, 35):
        adapted, scorer, stepper, optimizer = trainer(dropout=0.2)
        limit_memory(adapted, tokens)
        torch.manual_seed(5)
        with scorer.attention():
            stepper.evaluate(ROWS, lambda _done, _total: None)
            torch.manual_seed(5)
            stepper.train(ROWS[4:], optimizer, 1, nothing)
        results.append((weights(adapted), scorer.memory.micro_batch_tokens))
    assert results[0][1] == BUDGET
    assert results[1][1] <= 39
    for small, large in zip(results[1][0], results[0][0], strict=True):
        torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("size", "checkpointed"), [(450_000, 0), (250_000, 1), (100_000, 2)])
def test_an_example_too_large_by_itself_checkpoints_layers(size: int, checkpointed: int) -> None:
    results = []
    for limit in (10_000_000, size):
        adapted, scorer, stepper, optimizer = trainer(dropout=0.2)
        torch.manual_seed(5)
        with scorer.attention(), limit_activations(adapted, limit):
            stepper.train(ROWS[4:], optimizer, 1, nothing)
        results.append(weights(adapted))
    assert scorer.memory.rung.checkpointed_layers == checkpointed
    assert all(torch.equal(small, large) for small, large in zip(results[1], results[0], strict=True))


def test_checkpointing_does_not_help_a_pass_without_gradient() -> None:
    adapted, scorer, stepper, _ = trainer()
    limit_memory(adapted, 20)
    with scorer.attention(), pytest.raises(DeviceOutOfMemoryError, match=r"30 tokens .* hold at most 30 tokens\)"):
        stepper.evaluate(ROWS[4:], lambda _done, _total: None)
    assert scorer.memory.rung.checkpointed_layers == 0


def test_an_example_that_does_not_fit_by_itself_is_named_with_all_sizes() -> None:
    adapted, scorer, stepper, optimizer = trainer()
    limit_memory(adapted, 20)
    with (
        scorer.attention(),
        pytest.raises(DeviceOutOfMemoryError, match=r"30 tokens .* GiB of memory of cpu .* 2 of 2 decoder layers"),
    ):
        stepper.train(ROWS, optimizer, 1, nothing)
    assert gradients(adapted) == {}


def test_other_errors_are_not_taken_for_short_memory() -> None:
    adapted, scorer, stepper, optimizer = trainer()
    inner(adapted).base_model.register_forward_pre_hook(_fail)
    with scorer.attention(), pytest.raises(RuntimeError, match="sizes differ"):
        stepper.train(ROWS, optimizer, 1, nothing)


def _fail(module: nn.Module, arguments: tuple[Any, ...]) -> None:
    raise RuntimeError("sizes differ")


def test_an_interrupted_step_leaves_weights_gradient_and_generators_as_they_were() -> None:
    adapted, scorer, stepper, optimizer = trainer(budget=1, dropout=0.5)
    before, state = weights(adapted), torch.get_rng_state()
    calls = []

    def interrupt_the_third_micro_batch() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise TrainingCancelled("cancelled")

    with scorer.attention(), pytest.raises(TrainingCancelled):
        stepper.train(ROWS, optimizer, 1, interrupt_the_third_micro_batch)
    assert all(torch.equal(a, b) for a, b in zip(weights(adapted), before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert gradients(adapted) == {}

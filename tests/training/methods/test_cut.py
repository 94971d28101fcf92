import math
from typing import Any

import pytest
import torch

from tests.fixtures.tiny_models import build_tokenizer
from tests.training.builders import FACTS, question, scores
from worker.training.data.examples import ChatExample, NLFTExample
from worker.training.data.rendering import ModelRenderer
from worker.training.methods.base import find_problems
from worker.training.methods.cut import CUT, CUTHyperparameters
from worker.training.types import ScoredBatch

METHOD = CUT()
RENDERER = ModelRenderer(build_tokenizer())
RIGHT = NLFTExample(question("1 + 1?"), response="2")
PRAISED = NLFTExample(question("1 + 1?"), response="2", judgment="Perfect.", correct=True)
JUDGED = NLFTExample(question("1 + 1?"), response="3", judgment="too large")
UNJUDGED = NLFTExample(question("1 + 1?"), response="3", correct=False)


def right_judged_and_unjudged() -> ScoredBatch:
    """A right example of two tokens, a judged one of three whose first is inappropriate, an unjudged one."""
    passes = {"base": scores([0.5, 0.25], [0.2, 0.8, 0.5], [0.4]), "judgment": scores([], [0.6, 0.8, 0.25], [])}
    return ScoredBatch(passes, {"right": torch.tensor([1.0, 0.0, 0.0])})


RIGHT_LOSS = -(math.log(0.5) + math.log(0.25)) / 2
LIKELIHOOD = math.log(0.8) + math.log(0.5)  # of the tokens that are not inappropriate
HINDSIGHT = -(math.log(0.6) + math.log(0.8) + math.log(0.25)) / 3


@pytest.mark.parametrize(
    ("settings", "judged_loss"),
    [
        ({}, -(0.6 * math.log(1 - 0.2) + LIKELIHOOD) / 3 + HINDSIGHT),
        ({"hindsight_weight": 0.0}, -(0.6 * math.log(1 - 0.2) + LIKELIHOOD) / 3),
        ({"hindsight_weight": 0.5}, -(0.6 * math.log(1 - 0.2) + LIKELIHOOD) / 3 + 0.5 * HINDSIGHT),
        (
            {"unlikelihood_weight": 0.25, "judgment_exponent": 2.0},
            -(0.25 * 0.6**2 * math.log(1 - 0.2) + LIKELIHOOD) / 3 + HINDSIGHT,
        ),
        ({"judgment_exponent": 0.0}, -(math.log(1 - 0.2) + LIKELIHOOD) / 3 + HINDSIGHT),
        ({"unlikelihood_weight": 0.0}, -LIKELIHOOD / 3 + HINDSIGHT),
        ({"judgment_ratio_threshold": 3.0}, -(math.log(0.2) + LIKELIHOOD) / 3 + HINDSIGHT),
    ],
)
def test_loss_by_hand(settings: dict[str, Any], judged_loss: float) -> None:
    losses = METHOD.loss(right_judged_and_unjudged(), CUTHyperparameters(**settings)).losses
    torch.testing.assert_close(losses, torch.tensor([RIGHT_LOSS, judged_loss, 0.0]), rtol=1e-5, atol=1e-7)


def test_gradient_by_hand() -> None:
    batch = right_judged_and_unjudged()
    base, judged = (batch.passes[name].logprobs.requires_grad_() for name in ("base", "judgment"))
    torch.autograd.backward(METHOD.loss(batch, CUTHyperparameters()).losses.sum())
    pushed_down = 0.6 * 0.2 / (1 - 0.2) / 3  # d/d(log b) of -w log(1 - b) / n is w b / (1 - b) / n
    expected = [-1 / 2, -1 / 2, pushed_down, -1 / 3, -1 / 3, 0.0]
    torch.testing.assert_close(base.grad, torch.tensor(expected), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(judged.grad, torch.full((3,), -1 / 3))


def test_the_contrast_takes_no_gradient_through_the_judgment() -> None:
    batch = right_judged_and_unjudged()
    judged = batch.passes["judgment"].logprobs.requires_grad_()
    batch.passes["base"].logprobs.requires_grad_()
    torch.autograd.backward(METHOD.loss(batch, CUTHyperparameters(hindsight_weight=0.0)).losses.sum())
    assert judged.grad is None


@pytest.mark.parametrize(("hindsight_weight", "with_grad"), [(0.0, False), (0.5, True)])
def test_the_judgment_is_scored_with_gradient_only_where_its_likelihood_counts(
    hindsight_weight: float, with_grad: bool
) -> None:
    base, judgment = METHOD.passes(CUTHyperparameters(hindsight_weight=hindsight_weight))
    assert (base.with_grad, base.cached) == (True, False)
    assert (judgment.with_grad, judgment.cached) == (with_grad, False)


def test_a_token_is_lowered_only_above_the_threshold() -> None:
    batch = ScoredBatch(
        {"base": scores([0.2, 0.2, 0.2, 0.0]), "judgment": scores([0.22, 0.2201, 0.1, 0.0])}, {"right": torch.zeros(1)}
    )
    saliency = METHOD.saliency(batch, CUTHyperparameters())
    assert saliency.salient.tolist() == [False, True, False, False]


def test_every_token_is_explained() -> None:
    explained = METHOD.explain(right_judged_and_unjudged(), CUTHyperparameters())
    torch.testing.assert_close(explained.weights, torch.tensor([1.0, 1.0, 0.6, 1.0, 1.0, 0.0]))
    assert explained.salient.tolist() == explained.lowered.tolist() == [False, False, True, False, False, False]
    assert not explained.neighbour.any()
    given = explained.contexts["judgment"].exp()
    torch.testing.assert_close(
        given, torch.tensor([math.nan, math.nan, 0.6, 0.8, 0.25, math.nan]), equal_nan=True, rtol=1e-6, atol=0
    )


def test_metrics_are_means_over_examples() -> None:
    metrics = METHOD.loss(right_judged_and_unjudged(), CUTHyperparameters()).metrics
    assert metrics["token_weight"].item() == pytest.approx((1 + 2.6 / 3 + 0) / 3)
    assert metrics["salient_fraction"].item() == metrics["lowered_fraction"].item() == pytest.approx(1 / 9)


@pytest.mark.parametrize(
    ("row", "contexts", "right"),
    [
        (RIGHT, ["base"], 1.0),
        (PRAISED, ["base"], 1.0),
        (JUDGED, ["base", "judgment"], 0.0),
        (UNJUDGED, ["base"], 0.0),
    ],
)
def test_a_row_is_rendered_in_the_contexts_it_is_scored_in(row: NLFTExample, contexts: list[str], right: float) -> None:
    rendered = METHOD.render(row, RENDERER, CUTHyperparameters())
    assert list(rendered.sequences) == contexts
    assert rendered.values == {"right": right}
    assert len({tuple(one.input_ids[one.scored].tolist()) for one in rendered.sequences.values()}) == 1


@pytest.mark.parametrize(
    ("row", "paths"),
    [(RIGHT, []), (UNJUDGED, []), (NLFTExample(question("?"), reference="2"), ["response"]), (ChatExample([]), [""])],
)
def test_check_names_what_a_row_lacks(row: Any, paths: list[str]) -> None:
    assert [problem.path for problem in find_problems(METHOD, row, 1)] == paths


def test_a_row_without_a_response_cannot_be_rendered() -> None:
    with pytest.raises(ValueError, match="needs a response"):
        METHOD.render(NLFTExample(question("?"), reference="2"), RENDERER, CUTHyperparameters())


def test_the_prompts_are_spelled_out() -> None:
    chosen = CUTHyperparameters.resolve({"prompts": "paper"}, FACTS)
    assert "{{ judgment }}" in chosen.spelled_out()["prompts"]["judgment"]

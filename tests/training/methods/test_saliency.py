"""Token weights against values computed by hand from the formulas of the paper (see `docs/nlft.md`)."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.builders import scores
from worker.training.methods.nlft import NLFTHyperparameters
from worker.training.methods.saliency import Evidence, Saliency, weigh_tokens
from worker.training.types import TokenScores

PUBLISHED: dict[str, Any] = {"over_cap": "salient_only"}


def weigh(
    *, b: list[float], r: list[float], j: list[float] | None = None, hidden: Tensor | None = None, **settings: Any
) -> Saliency:
    """One example: right without ``j``, wrong with it; ``j`` of zeros: wrong without a judgment."""
    judgment = scores(j or [0.0] * len(b)).logprobs
    evidence = Evidence(
        tokens=scores(b, hidden=hidden),
        right=torch.tensor([j is None]),
        log_base=scores(b).logprobs,
        log_reference=scores(r).logprobs,
        log_judgment=judgment,
    )
    return weigh_tokens(evidence, NLFTHyperparameters.model_validate(PUBLISHED | settings))


def close(tensor: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(tensor, torch.tensor(expected), rtol=1e-5, atol=1e-7)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_right_example() -> None:
    found = weigh(b=[0.5] * 4, r=[0.975, 1.0, 0.475, 0.95])
    # Salient: 1 + (0.025 / 0.05)^5 = 1.03125 and 2. Others: (0.475 / 0.95)^0.6 = 0.659754; at the threshold 1.
    close(found.weights, [1.03125, 2.0, 0.6597540, 1.0])
    assert found.salient.tolist() == [True, True, False, False]
    assert not found.lowered.any()


def test_right_example_with_neighbours() -> None:
    hidden = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = weigh(b=[0.5] * 3, r=[1.0, 0.475, 0.475], hidden=hidden, cluster="similarity")
    close(found.weights, [2.0, 0.8122524, 0.6597540])  # 0.5^0.3 beside the salient token, 0.5^0.6 elsewhere
    assert found.neighbour.tolist() == [False, True, False]


def test_right_example_with_other_constants() -> None:
    found = weigh(b=[0.5] * 2, r=[0.75, 0.125], reference_threshold=0.5, salient_exponent=2.0, other_exponent=1.0)
    close(found.weights, [1.25, 0.25])


def test_wrong_example() -> None:
    found = weigh(b=[0.2, 0.5, 0.5], r=[0.1, 0.25, 0.01], j=[0.6, 0.5, 0.2], max_salient_fraction=1.0)
    close(found.weights, [2 * sigmoid(3.0 - 1.5), 0.5, 0.1])
    assert found.salient.tolist() == found.lowered.tolist() == [True, False, False]


def test_weight_is_one_at_the_centre_of_the_scale() -> None:
    found = weigh(b=[0.2], r=[0.01], j=[0.6], max_salient_fraction=1.0, scale_center=3.0)
    close(found.weights, [1.0])


def test_wrong_example_without_judgment_has_no_salient_token() -> None:
    found = weigh(b=[0.2, 0.9], r=[0.25, 1.0], j=[0.0, 0.0])
    close(found.weights, [0.5, 1.0])
    assert not found.salient.any()


@pytest.mark.parametrize(
    ("b", "r", "j"),
    [
        pytest.param(0.4, 0.1, 0.6, id="j is 1.5 times b"),
        pytest.param(0.1, 0.4, 0.6, id="j is 1.5 times r"),
        pytest.param(0.001, 0.001, 0.01, id="j at its floor"),
    ],
)
def test_wrong_token_exactly_at_a_threshold_is_not_salient(b: float, r: float, j: float) -> None:
    assert not weigh(b=[b], r=[r], j=[j], max_salient_fraction=1.0).salient.any()
    assert weigh(b=[b], r=[r], j=[j * 1.0001], max_salient_fraction=1.0).salient.all()


def test_right_token_exactly_at_the_threshold_is_not_salient() -> None:
    assert weigh(b=[0.5, 0.5], r=[0.95, 0.95001]).salient.tolist() == [False, True]


WRONG: dict[str, Any] = {"b": [0.2, 0.2, 0.9, 0.9], "r": [0.1, 0.1, 0.25, 0.81], "j": [0.6, 0.6, 0.9, 0.9]}
LOWERED = 2 * sigmoid(1.5)


@pytest.mark.parametrize(
    ("over_cap", "weights", "lowered"),
    [
        ("salient_only", [LOWERED, LOWERED, 0.0, 0.0], [True, True, False, False]),
        ("mask_salient", [0.0, 0.0, 0.5, 0.9], [False] * 4),
        ("none", [LOWERED, LOWERED, 0.5, 0.9], [True, True, False, False]),
    ],
)
def test_wrong_example_over_the_cap(over_cap: str, weights: list[float], lowered: list[bool]) -> None:
    found = weigh(**WRONG, over_cap=over_cap)
    close(found.weights, weights)
    assert found.lowered.tolist() == lowered


@pytest.mark.parametrize(
    "cap",
    [
        pytest.param({"max_salient_fraction": 0.5}, id="exactly the fraction"),
        pytest.param({"max_salient_tokens": 2}, id="exactly the tokens"),
    ],
)
def test_exactly_as_many_salient_tokens_as_allowed_are_not_over_the_cap(cap: dict[str, Any]) -> None:
    close(weigh(**WRONG, **cap).weights, [LOWERED, LOWERED, 0.5, 0.9])


def test_cap_of_six_percent_counts_exactly() -> None:
    salient, others = {"b": 0.2, "r": 0.1, "j": 0.6}, {"b": 0.9, "r": 0.25, "j": 0.9}
    for count, expected in ((3, 0.5), (4, 0.0)):
        rows = [salient] * count + [others] * (50 - count)
        b, r, j = ([row[key] for row in rows] for key in ("b", "r", "j"))
        found = weigh(b=b, r=r, j=j)
        assert found.weights[-1].item() == pytest.approx(expected)


def test_neighbours_in_a_wrong_example_weigh_nothing() -> None:
    hidden = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = weigh(
        b=[0.2, 0.9, 0.9],
        r=[0.1, 0.25, 0.25],
        j=[0.6, 0.9, 0.9],
        hidden=hidden,
        cluster="similarity",
        max_salient_fraction=1.0,
    )
    close(found.weights, [LOWERED, 0.0, 0.5])


def test_right_and_wrong_examples_do_not_touch_each_other() -> None:
    evidence = Evidence(
        tokens=scores([0.5, 0.5], [0.2, 0.9]),
        right=torch.tensor([True, False]),
        log_base=scores([0.5, 0.5], [0.2, 0.9]).logprobs,
        log_reference=scores([1.0, 0.475], [0.1, 0.25]).logprobs,
        log_judgment=scores([0.0, 0.0], [0.6, 0.9]).logprobs,
    )
    found = weigh_tokens(evidence, NLFTHyperparameters(over_cap="none"))
    close(found.weights, [2.0, 0.6597540, LOWERED, 0.5])


@pytest.mark.parametrize("j", [None, [1.0, 1e-30]])
def test_extreme_probabilities_give_finite_weights(j: list[float] | None) -> None:
    found = weigh(b=[1e-40, 1.0], r=[1e-40, 1.0], j=j, over_cap="none", reference_threshold=1.0)
    assert torch.isfinite(found.weights).all()


def test_contrast_with_the_reference_alone_finds_a_confident_error() -> None:
    evidence: dict[str, Any] = {"b": [0.9, 0.5], "r": [0.01, 0.25], "j": [0.9, 0.3], "max_salient_fraction": 1.0}
    assert not weigh(**evidence).salient.any()
    found = weigh(**evidence, contrast="reference")
    close(found.weights, [2 * sigmoid(1.0 - 1.5), 0.5])
    assert found.lowered.tolist() == [True, False]


def test_tokens_behind_the_first_error_can_be_masked() -> None:
    evidence: dict[str, Any] = {"b": [0.5, 0.2, 0.9], "r": [0.25, 0.1, 0.81], "j": [0.3, 0.6, 0.9]}
    kept = weigh(**evidence, max_salient_fraction=1.0)
    close(kept.weights, [0.5, 2 * sigmoid(1.5), 0.9])
    close(weigh(**evidence, max_salient_fraction=1.0, after_error="mask").weights, [0.5, 2 * sigmoid(1.5), 0.0])


def test_masking_behind_an_error_stays_in_its_own_response() -> None:
    b, r, j = (torch.tensor(p).log() for p in ([0.2, 0.9, 0.9, 0.9], [0.1, 0.81, 0.81, 0.81], [0.6, 0.9, 0.9, 0.9]))
    tokens = TokenScores(b, torch.tensor([0, 0, 2, 2]), torch.tensor([2, 0, 2]))
    evidence = Evidence(tokens, torch.tensor([False] * 3), b, r, j)
    settings = NLFTHyperparameters.model_validate({"after_error": "mask", "over_cap": "none"})
    assert weigh_tokens(evidence, settings).weights[1:].tolist() == pytest.approx([0.0, 0.9, 0.9])


def test_refused_exponent_sharpens_the_mask() -> None:
    close(weigh(b=[0.5], r=[0.25], j=[0.0], refused_exponent=2.0).weights, [0.0625])

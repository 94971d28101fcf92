"""NLFT's token weights: what a token's probability under guidance says about how it should be trained.

Formulas of arXiv 2412.20382, sections 3.2 and 3.3, with the published constants as hyperparameters. Written on tensor
methods alone. Legend in ``worker.training.types``; b, r, j are P(token) in the base, reference and judgment context.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from worker.training.methods.guidance import GuidedHyperparameters
from worker.training.methods.neighbours import find_neighbours
from worker.training.methods.ragged import ABOVE, sum_by_example

if TYPE_CHECKING:
    from torch import Tensor

    from worker.training.types import TokenScores


class SaliencyHyperparameters(GuidedHyperparameters):
    """The settings that decide the weights."""

    reference_threshold: float = Field(
        0.95,
        gt=0,
        le=1,
        description="A token of a right response is salient above this probability given the reference.",
    )
    judgment_ratio_threshold: float = Field(
        1.5,
        ge=0,
        description="A token of a wrong response is salient if the judgment makes it more than this many times as "
        "likely as the plain prompt does, and as the reference does.",
    )
    judgment_probability_floor: float = Field(
        0.01, ge=0, lt=1, description="Least probability given the judgment of a salient token of a wrong response."
    )
    contrast: Literal["base_and_reference", "reference"] = Field(
        "base_and_reference",
        description="What the judgment must make a salient token of a wrong response likelier than: the plain prompt "
        "and the reference (published), or the reference alone, which also finds errors that the model is sure of.",
    )
    scale_center: float = Field(1.5, description="Ratio j / b at which a salient token of a wrong response weighs 1.")
    max_salient_fraction: float = Field(
        0.06,
        ge=0,
        le=1,
        description="Share of a wrong response's tokens that may be salient before `over_cap` applies.",
    )
    max_salient_tokens: int = Field(
        0, ge=0, description="Tokens of a wrong response that may be salient whatever its length; published: 0."
    )
    over_cap: Literal["salient_only", "mask_salient", "none"] = Field(
        "mask_salient",
        description="Wrong response with too many salient tokens: train those alone (published), mask them, neither.",
    )
    after_error: Literal["keep", "mask"] = Field(
        "keep",
        description="Whether tokens of a wrong response behind its first salient one keep their weights (published) "
        "or get 0.",
    )
    refused_exponent: float = Field(
        0.5, ge=0, description="Exponent of r for the tokens of a wrong response that are not salient; published: 0.5."
    )
    salient_exponent: float = Field(5.0, ge=0, description="Steepness of a salient token's weight in a right response.")
    neighbour_exponent: float = Field(0.3, ge=0, description="Exponent of r / tau beside a salient token.")
    other_exponent: float = Field(0.6, ge=0, description="Exponent of r / tau away from salient tokens.")
    cluster: Literal["distance", "similarity", "none"] = Field(
        "none",
        description="Which tokens count as neighbours of a salient one: dissimilar (published), similar, or none.",
    )
    cluster_distance: float = Field(0.4, ge=0, le=2, description="Cosine distance that ends a walk to neighbours.")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about the tokens of the base pass, all without gradient.

    Attributes:
        tokens: The base pass; its ``hidden`` is needed where neighbours are looked for.
        right: bool [B], the example's response is right.
        log_base: float32 [N].
        log_reference: float32 [N].
        log_judgment: float32 [N]; -inf where the example has no judgment.
    """

    tokens: TokenScores
    right: Tensor
    log_base: Tensor
    log_reference: Tensor
    log_judgment: Tensor


@dataclass(frozen=True, slots=True)
class Saliency:
    """The decision about every token: float32 ``weights`` [N] and bool [N] classes; ``lowered`` tokens are unlearnt."""

    weights: Tensor
    salient: Tensor
    neighbour: Tensor
    lowered: Tensor


def weigh_tokens(evidence: Evidence, settings: SaliencyHyperparameters) -> Saliency:
    """Return the weight and class of every token [N]."""
    right = evidence.right[evidence.tokens.example]
    ratio_to_base = (evidence.log_judgment.double() - evidence.log_base.double()).exp()
    salient = _is_salient_in_right(evidence, settings).where(
        right, _is_salient_in_wrong(evidence, ratio_to_base, settings)
    )
    neighbour = find_neighbours(evidence.tokens, salient, cluster=settings.cluster, distance=settings.cluster_distance)
    weights_right = _weigh_right(evidence, salient, neighbour, settings)
    weights_wrong = _weigh_wrong(evidence, ratio_to_base, salient, neighbour, settings)
    weights = weights_right.where(right, weights_wrong).float()
    return Saliency(weights, salient, neighbour, lowered=salient & ~right & (weights > 0))


def _is_salient_in_right(evidence: Evidence, settings: SaliencyHyperparameters) -> Tensor:
    return evidence.log_reference.double().exp() > settings.reference_threshold * (1 + ABOVE)


def _is_salient_in_wrong(evidence: Evidence, ratio_to_base: Tensor, settings: SaliencyHyperparameters) -> Tensor:
    least_ratio = settings.judgment_ratio_threshold * (1 + ABOVE)
    log_judgment = evidence.log_judgment.double()
    ratio_to_reference = (log_judgment - evidence.log_reference.double()).exp()
    probable = log_judgment > math.log(max(settings.judgment_probability_floor, 1e-300)) + ABOVE
    refused = (ratio_to_reference > least_ratio) & probable
    return refused & (ratio_to_base > least_ratio) if settings.contrast == "base_and_reference" else refused


def _weigh_right(evidence: Evidence, salient: Tensor, neighbour: Tensor, settings: SaliencyHyperparameters) -> Tensor:
    """Return 1 + ((r - tau) / (1 - tau))^5 for the salient, (r / tau)^0.3 beside them, (r / tau)^0.6 elsewhere [N]."""
    tau = settings.reference_threshold
    reference = evidence.log_reference.double().exp()
    excess = ((reference - tau) / max(1 - tau, 1e-12)).clamp(min=0)
    relative = reference / tau
    beside = (relative**settings.neighbour_exponent).where(neighbour, relative**settings.other_exponent)
    return (1 + excess**settings.salient_exponent).where(salient, beside)


def _weigh_wrong(
    evidence: Evidence, ratio_to_base: Tensor, salient: Tensor, neighbour: Tensor, settings: SaliencyHyperparameters
) -> Tensor:
    """Return 2 sigmoid(j / b - theta) for the salient, 0 beside them, r^e elsewhere, and apply the cap [N]."""
    raised = 2 * (ratio_to_base - settings.scale_center).sigmoid()
    others = (evidence.log_reference.double() * settings.refused_exponent).exp() * ~neighbour
    if settings.after_error == "mask":
        others = others * ~_follows_salient(evidence.tokens, salient)
    over = _is_over_cap(evidence.tokens, salient, settings)
    if settings.over_cap == "salient_only":
        others = others * ~over
    if settings.over_cap == "mask_salient":
        raised = raised * ~over
    return raised.where(salient, others)


def _follows_salient(tokens: TokenScores, salient: Tensor) -> Tensor:
    """Return which tokens stand behind a salient one in their example, bool [N]."""
    if not salient.numel():
        return salient
    before = salient.long().cumsum(0) - salient.long()
    starts = (tokens.lengths.cumsum(0) - tokens.lengths).clamp(max=salient.numel() - 1)
    return before > before[starts][tokens.example]


def _is_over_cap(tokens: TokenScores, salient: Tensor, settings: SaliencyHyperparameters) -> Tensor:
    """Return whether more tokens than allowed are salient in each token's example, bool [N]."""
    found = sum_by_example(salient.double(), tokens)
    allowed = (tokens.lengths.double() * settings.max_salient_fraction).clamp(min=settings.max_salient_tokens)
    return (found > allowed * (1 + ABOVE))[tokens.example]

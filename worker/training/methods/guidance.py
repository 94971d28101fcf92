"""What methods that contrast contexts share: how guidance is shown, and the loss of tokens that are raised or lowered.

Written on tensor methods alone. Legend in ``worker.training.types``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from worker.training.methods.base import Hyperparameters
from worker.training.methods.prompts import Prompts, find_prompts
from worker.training.methods.ragged import clamp_logprobs, log_complement, mean_by_example

if TYPE_CHECKING:
    from torch import Tensor

    from worker.training.methods.saliency import Saliency
    from worker.training.types import TokenScores


class GuidedHyperparameters(Hyperparameters):
    """Settings of every method that shows guidance."""

    prompts: Prompts = Field(
        "default",
        description="How guidance is shown: `default` puts it behind the question, `paper` has NLFT's published order; "
        "or templates of your own.",
    )

    def spelled_out(self) -> dict[str, Any]:
        """Return all values as JSON, the prompts as templates."""
        return self.model_dump(mode="json") | {"prompts": find_prompts(self.prompts).model_dump(mode="json")}


def contrast_loss(tokens: TokenScores, saliency: Saliency) -> Tensor:
    """Return -(1/n) sum_t of w log p (raised) or w log(1 - p) (lowered) for each example [B].

    Unlikelihood: Welleck et al. 2020 (https://arxiv.org/abs/1908.04319).
    """
    raised = saliency.weights * clamp_logprobs(tokens.logprobs)
    lowered = saliency.weights * log_complement(tokens.logprobs)
    return -mean_by_example(lowered.where(saliency.lowered, raised), tokens)


def contrast_metrics(tokens: TokenScores, saliency: Saliency) -> dict[str, Tensor]:
    """Return the mean weight and the shares of salient and lowered tokens, each a mean over examples."""
    figures = {
        "token_weight": saliency.weights,
        "salient_fraction": saliency.salient.float(),
        "lowered_fraction": saliency.lowered.float(),
    }
    return {name: mean_by_example(values, tokens).mean() for name, values in figures.items()}

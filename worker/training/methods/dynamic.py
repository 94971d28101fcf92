"""Dynamic fine-tuning: supervised fine-tuning in which every token counts as much as the model already believes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from worker.training.methods.ragged import clamp_logprobs, mean_by_example
from worker.training.methods.supervised import Supervised, SupervisedHyperparameters
from worker.training.types import LossOutput

if TYPE_CHECKING:
    from worker.training.types import ScoredBatch


class Dynamic(Supervised):
    """Dynamic fine-tuning (Wu et al. 2025, https://arxiv.org/abs/2508.05629)."""

    name: ClassVar[str] = "dynamic"
    summary: ClassVar[str] = "Weighs every token's loss by the token's own probability, without gradient."
    paper: ClassVar[str] = "https://arxiv.org/abs/2508.05629"

    def loss(self, batch: ScoredBatch, hyperparameters: SupervisedHyperparameters) -> LossOutput:  # noqa: ARG002
        """Return -(1/n) sum_t p_t log p_t for each example, the factor p_t constant."""
        scores = batch.passes[self.main_pass]
        weights = scores.logprobs.detach().exp()
        losses = -mean_by_example(weights * clamp_logprobs(scores.logprobs), scores)
        return LossOutput(losses, weights, {"token_weight": mean_by_example(weights, scores).mean()})

"""Contrastive Unlikelihood Training: tokens that a judgment makes likelier are unlearnt, all others learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from worker.training.data.examples import Example, NLFTExample
from worker.training.methods.guidance import GuidedHyperparameters, contrast_loss, contrast_metrics
from worker.training.methods.prompts import show_judgment
from worker.training.methods.ragged import ABOVE, align, clamp_logprobs, mean_by_example
from worker.training.methods.saliency import Saliency
from worker.training.spec import LoraSettings
from worker.training.types import Explanation, LossOutput, RenderedExample, ScoringPass

if TYPE_CHECKING:
    from worker.training.methods.base import Hyperparameters, Probe, Renderer, RequiredField
    from worker.training.types import ScoredBatch


class CUTHyperparameters(GuidedHyperparameters):
    """Settings of CUT.

    The paper names the values it searched (appendix A.1). Defaults are those of its authors' launch script, and for
    gamma, which their code lacks, the middle of the searched ones.
    """

    judgment_ratio_threshold: float = Field(
        1.1,
        gt=0,
        description="lambda: a token of a wrong response is inappropriate if the judgment makes it more than this many "
        "times as likely as the plain prompt does; published: 1.1 or 1.2.",
    )
    unlikelihood_weight: float = Field(
        1.0, ge=0, description="alpha: weight of an inappropriate token's unlikelihood; published: 0.25 to 1."
    )
    judgment_exponent: float = Field(
        1.0,
        ge=0,
        description="gamma: exponent of the probability given the judgment in that weight; published: 0.25 to 2.",
    )
    hindsight_weight: float = Field(
        1.0, ge=0, description="Weight of a wrong response's log-likelihood given its judgment; published: 1."
    )


class CUT:
    """Contrastive Unlikelihood Training (Xu et al. 2023, https://arxiv.org/abs/2312.14591, equations 5 to 7).

    b and j are P(token) behind the plain prompt and with the judgment shown, both by the model being trained; the plain
    prompt stands for the fake positive judgment (figure 5). The two losses are added; the authors' code halves the sum.
    """

    name: ClassVar[str] = "cut"
    summary: ClassVar[str] = (
        "Lowers the tokens of a wrong response that its judgment makes likelier, raises all others."
    )
    paper: ClassVar[str] = "https://arxiv.org/abs/2312.14591"
    example_types: ClassVar[tuple[type[Example], ...]] = (NLFTExample,)
    required_fields: ClassVar[tuple[RequiredField, ...]] = ("response",)
    hyperparameters_type: ClassVar[type[Hyperparameters]] = CUTHyperparameters
    uses_judgments: ClassVar[bool] = True
    main_pass: ClassVar[str] = "base"
    probe: ClassVar[Probe | None] = None

    def adapter(self, hyperparameters: CUTHyperparameters) -> LoraSettings:  # noqa: ARG002 - the protocol's shape
        """Return the adapter settings used when the job names none."""
        return LoraSettings()

    def passes(self, hyperparameters: CUTHyperparameters) -> tuple[ScoringPass, ...]:
        """Return base (gradient) and judgment, whose gradient the likelihood under the judgment alone needs."""
        return (
            ScoringPass("base", "base", with_grad=True),
            ScoringPass("judgment", "judgment", with_grad=hyperparameters.hindsight_weight > 0),
        )

    def render(self, example: Example, renderer: Renderer, hyperparameters: CUTHyperparameters) -> RenderedExample:
        """Return the response behind the plain prompt, a wrong one behind its judgment, too.

        Raises:
            ValueError: The row has no response.
        """
        if not isinstance(example, NLFTExample) or not example.answer:
            msg = "a CUT row needs a response"
            raise ValueError(msg)
        response = renderer.response_text(example)
        sequences = {"base": renderer.exchange(example.prompt, response, example.tools)}
        if example.judgment and not example.is_right:
            judged = show_judgment(example, hyperparameters.prompts, example.judgment)
            sequences["judgment"] = renderer.exchange(judged, response, example.tools)
        return RenderedExample(sequences, {"right": float(example.is_right)})

    def loss(self, batch: ScoredBatch, hyperparameters: CUTHyperparameters) -> LossOutput:
        """Return L1 (equation 6) plus L2 (equation 7) per example; of a right response that is -(1/n) sum_t log b.

        A wrong response without a judgment costs nothing and teaches nothing.
        """
        base, judged = batch.passes["base"], batch.passes["judgment"]
        saliency = self.saliency(batch, hyperparameters)
        losses = contrast_loss(base, saliency)
        if hyperparameters.hindsight_weight:
            likelihood = mean_by_example(clamp_logprobs(judged.logprobs), judged)
            losses = losses - hyperparameters.hindsight_weight * likelihood
        return LossOutput(losses, saliency.weights, contrast_metrics(base, saliency))

    def saliency(self, batch: ScoredBatch, hyperparameters: CUTHyperparameters) -> Saliency:
        """Return the weight and class of every token of the base pass [N], without gradient.

        Salient where j > lambda b (equation 5), with weight alpha j^gamma; other tokens weigh 1, and those of a wrong
        response without a judgment 0.
        """
        base, judged = batch.passes["base"], batch.passes["judgment"]
        log_judgment = align(judged, base, absent=float("-inf")).detach().double()
        ratio = (log_judgment - base.logprobs.detach().double()).exp()
        salient = ratio > hyperparameters.judgment_ratio_threshold * (1 + ABOVE)
        penalty = hyperparameters.unlikelihood_weight * (log_judgment * hyperparameters.judgment_exponent).exp()
        has_lesson = ((batch.values["right"] > 0) | (judged.lengths > 0))[base.example]
        weights = penalty.where(salient, has_lesson.double()).float()
        return Saliency(weights, salient, neighbour=salient.new_zeros(salient.shape), lowered=salient & (weights > 0))

    def explain(self, batch: ScoredBatch, hyperparameters: CUTHyperparameters) -> Explanation:
        """Return the saliency of every token of the base pass with the probability given the judgment."""
        saliency = self.saliency(batch, hyperparameters)
        judged = align(batch.passes["judgment"], batch.passes["base"], absent=float("nan")).detach()
        return Explanation(
            saliency.weights,
            saliency.salient,
            saliency.neighbour,
            lowered=saliency.lowered,
            contexts={"judgment": judged},
        )

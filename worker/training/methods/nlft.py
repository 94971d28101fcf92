"""Natural Language Fine-Tuning: the model's own reaction to guidance decides how much each token counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from worker.training.data.examples import Example, NLFTExample
from worker.training.methods.base import Finding, Hyperparameters, RequiredField
from worker.training.methods.guidance import contrast_loss, contrast_metrics
from worker.training.methods.prompts import show_judgment, show_reference
from worker.training.methods.ragged import align, clamp_logprobs, mean_by_example
from worker.training.methods.saliency import Evidence, Saliency, SaliencyHyperparameters, weigh_tokens
from worker.training.spec import LoraSettings
from worker.training.types import Explanation, LossOutput, RenderedExample, ScoringPass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.training.methods.base import Probe, Renderer
    from worker.training.types import ScoredBatch

# What the paper and its code used, as far as this library has it: the base model stays in its own precision, not 8-bit.
_PAPER: Mapping[str, Any] = {
    "n_epochs": 10,
    "batch_size": 4,
    "learning_rate": 5e-5,
    "lr_scheduler": "cosine",
    "warmup_ratio": 0.1,
    "over_cap": "salient_only",
    "hindsight_weight": 1.0,
    "cluster": "distance",
    "scoring": "online",
    "loss_scale": 10.0,
    "prompts": "paper",
}


class NLFTHyperparameters(SaliencyHyperparameters):
    """Settings of NLFT.

    Defaults are the published values but where measurements on a small model spoke against them: contexts scored once,
    no hindsight term, no neighbours, and salient tokens over the cap masked instead of trained alone.
    """

    preset: Literal["auto", "paper"] = Field(
        "auto",
        description="`paper` takes the published values, its LoRA (r 16, alpha 16, dropout 0.05 on gate/up/down) and "
        "learning rate; the base stays in its own precision instead of 8-bit. Values set beside it win.",
    )
    scoring: Literal["online", "epoch", "frozen"] = Field(
        "frozen",
        description="`online`: contexts are scored by the model being trained at every step, as published. "
        "`epoch`: before every epoch, by the model as trained until then. "
        "`frozen`: once, by the base model; every epoch then costs what supervised training costs.",
    )
    nll_weight: float = Field(1.0, ge=0, description="Weight of the plain log-likelihood of right responses.")
    hindsight_weight: float = Field(
        0.0, ge=0, description="Weight of a wrong response's log-likelihood given its judgment; published: 1."
    )
    loss_scale: float = Field(1.0, gt=0, description="Multiplies the loss; published: 10.")

    @classmethod
    def presets(cls, requested: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the published values where the request asks for them."""
        return _PAPER if requested.get("preset") == "paper" else {}


class GuidanceProbe:
    """Whether the model can use the guidance at all: does the reference text become likelier once it is shown?"""

    sample_size: ClassVar[int] = 16

    def passes(self, hyperparameters: NLFTHyperparameters) -> tuple[ScoringPass, ...]:  # noqa: ARG002 - the protocol's shape
        """Return the reference text behind the plain and behind the guided prompt, by the bare base model."""
        return (
            ScoringPass("plain", "plain", with_adapter=False),
            ScoringPass("guided", "guided", with_adapter=False),
        )

    def render(self, example: Example, renderer: Renderer, hyperparameters: NLFTHyperparameters) -> RenderedExample:
        """Return the reference as the answer to the plain and to the guided prompt."""
        row, reference = _require(example)
        guided = show_reference(row, hyperparameters.prompts, reference)
        return RenderedExample(
            {
                "plain": renderer.exchange(row.prompt, reference, row.tools),
                "guided": renderer.exchange(guided, reference, row.tools),
            }
        )

    def diagnose(self, batch: ScoredBatch, hyperparameters: NLFTHyperparameters) -> Finding:  # noqa: ARG002
        """Return the mean log-probabilities (nats per token, mean over examples), a warning where guidance hurts."""
        plain, guided = (
            float(mean_by_example(scores.logprobs, scores).mean())
            for scores in (batch.passes["plain"], batch.passes["guided"])
        )
        figures = {"plain_logprob": plain, "guided_logprob": guided, "gain": guided - plain}
        told = (
            f"mean log-probability of the reference text {plain:.3f} without and {guided:.3f} with the reference shown"
        )
        if guided > plain:
            return Finding("info", f"Guidance check passed: {told}.", figures)
        return Finding(
            "warn",
            f"This model or prompt set cannot use the guidance ({told}): NLFT is unlikely to help. "
            "Try another prompt set, a larger model, or supervised training.",
            figures,
        )


class NLFT:
    """Natural Language Fine-Tuning (Liu et al. 2024, https://arxiv.org/abs/2412.20382).

    The contrast of likelihood and unlikelihood under a judgment comes from CUT (https://arxiv.org/abs/2312.14591).
    """

    name: ClassVar[str] = "nlft"
    summary: ClassVar[str] = "Weighs every token by how its probability changes when guidance is shown."
    paper: ClassVar[str] = "https://arxiv.org/abs/2412.20382"
    example_types: ClassVar[tuple[type[Example], ...]] = (NLFTExample,)
    required_fields: ClassVar[tuple[RequiredField, ...]] = ("response", "reference")
    hyperparameters_type: ClassVar[type[Hyperparameters]] = NLFTHyperparameters
    uses_judgments: ClassVar[bool] = True
    main_pass: ClassVar[str] = "base"
    probe: ClassVar[Probe | None] = GuidanceProbe()

    def adapter(self, hyperparameters: NLFTHyperparameters) -> LoraSettings:
        """Return the adapter settings used when the job names none; the preset `paper` has its own."""
        if hyperparameters.preset == "paper":
            return LoraSettings(r=16, alpha=16, dropout=0.05, target_modules=["gate_proj", "up_proj", "down_proj"])
        return LoraSettings()

    def passes(self, hyperparameters: NLFTHyperparameters) -> tuple[ScoringPass, ...]:
        """Return base (gradient), reference and judgment, and what the scoring mode and the hindsight term add.

        Where contexts are scored ahead b is, too, since j / b compares two prompts, not two models.
        """
        hindsight = hyperparameters.hindsight_weight > 0
        base = ScoringPass("base", "base", with_grad=True, with_hidden=hyperparameters.cluster != "none")
        if hyperparameters.scoring == "online":
            return (
                base,
                ScoringPass("reference", "reference"),
                ScoringPass("judgment", "judgment", with_grad=hindsight),
            )
        renewed = hyperparameters.scoring == "epoch"
        cached = tuple(
            ScoringPass(name, name, with_adapter=renewed, cached=True, renewed=renewed)
            for name in ("reference", "judgment", "judged_base")
        )
        return (base, *cached, *([ScoringPass("hindsight", "judgment", with_grad=True)] if hindsight else []))

    def render(self, example: Example, renderer: Renderer, hyperparameters: NLFTHyperparameters) -> RenderedExample:
        """Return the response in its three contexts; a wrong one without a judgment has two.

        Raises:
            ValueError: The row has no response or no reference.
        """
        row, reference = _require(example)
        response = renderer.response_text(row)
        base = renderer.exchange(row.prompt, response, row.tools)
        guided = show_reference(row, hyperparameters.prompts, reference)
        sequences = {"base": base, "reference": renderer.exchange(guided, response, row.tools)}
        if row.judgment and not row.is_right:
            judged = show_judgment(row, hyperparameters.prompts, row.judgment)
            sequences |= {"judgment": renderer.exchange(judged, response, row.tools), "judged_base": base}
        return RenderedExample(sequences, {"right": float(row.is_right)})

    def loss(self, batch: ScoredBatch, hyperparameters: NLFTHyperparameters) -> LossOutput:
        """Return -(1/n) sum_t of w log b (raised) or w log(1 - b) (lowered), plus the likelihood terms, per example."""
        base, right = batch.passes["base"], batch.values["right"]
        saliency = self.saliency(batch, hyperparameters)
        losses = contrast_loss(base, saliency)
        if hyperparameters.nll_weight:
            likelihood = mean_by_example(clamp_logprobs(base.logprobs), base)
            losses = losses - hyperparameters.nll_weight * right * likelihood
        if hyperparameters.hindsight_weight:
            judged = batch.passes.get("hindsight", batch.passes["judgment"])
            losses = losses - hyperparameters.hindsight_weight * mean_by_example(
                clamp_logprobs(judged.logprobs), judged
            )
        return LossOutput(hyperparameters.loss_scale * losses, saliency.weights, contrast_metrics(base, saliency))

    def saliency(self, batch: ScoredBatch, hyperparameters: NLFTHyperparameters) -> Saliency:
        """Return the weight and class of every token of the base pass [N], without gradient."""
        base = batch.passes["base"]
        live = base.logprobs.detach()
        judged_base = batch.passes.get("judged_base")
        evidence = Evidence(
            tokens=base,
            right=batch.values["right"] > 0,
            log_base=live if judged_base is None else align(judged_base, base, absent=0.0),
            log_reference=batch.passes["reference"].logprobs.detach(),
            log_judgment=align(batch.passes["judgment"], base, absent=float("-inf")).detach(),
        )
        return weigh_tokens(evidence, hyperparameters)

    def explain(self, batch: ScoredBatch, hyperparameters: NLFTHyperparameters) -> Explanation:
        """Return the saliency of every token of the base pass with the probabilities that it follows from."""
        saliency = self.saliency(batch, hyperparameters)
        compared = {"reference": "reference", "judgment": "judgment", "frozen_base": "judged_base"}
        contexts = {
            name: align(batch.passes[source], batch.passes["base"], absent=float("nan")).detach()
            for name, source in compared.items()
            if source in batch.passes
        }
        return Explanation(
            saliency.weights, saliency.salient, saliency.neighbour, lowered=saliency.lowered, contexts=contexts
        )


def _require(example: Example) -> tuple[NLFTExample, str]:
    if not isinstance(example, NLFTExample) or not example.answer or not example.reference:
        msg = "an NLFT row needs a response and a reference"
        raise ValueError(msg)
    return example, example.reference

"""Supervised fine-tuning: every trained token counts the same within its example."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from worker.training.data.examples import ChatExample, CompletionExample, Example, NLFTExample
from worker.training.methods.base import Hyperparameters, RequiredField
from worker.training.methods.ragged import clamp_logprobs, mean_by_example
from worker.training.spec import LoraSettings
from worker.training.types import LossOutput, RenderedExample, ScoringPass

if TYPE_CHECKING:
    from worker.training.methods.base import Probe, Renderer
    from worker.training.types import ScoredBatch, TokenSequence


class SupervisedHyperparameters(Hyperparameters):
    """Supervised fine-tuning has no settings of its own."""


class Supervised:
    """Supervised fine-tuning of instructions (Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, step 1)."""

    name: ClassVar[str] = "supervised"
    summary: ClassVar[str] = "Raises the probability of every response token equally."
    paper: ClassVar[str] = "https://arxiv.org/abs/2203.02155"
    example_types: ClassVar[tuple[type[Example], ...]] = (ChatExample, CompletionExample, NLFTExample)
    required_fields: ClassVar[tuple[RequiredField, ...]] = ("response",)
    hyperparameters_type: ClassVar[type[Hyperparameters]] = SupervisedHyperparameters
    uses_judgments: ClassVar[bool] = False
    main_pass: ClassVar[str] = "completion"
    probe: ClassVar[Probe | None] = None

    def adapter(self, hyperparameters: SupervisedHyperparameters) -> LoraSettings:  # noqa: ARG002 - the protocol's shape
        """Return the adapter settings used when the job names none."""
        return LoraSettings()

    def passes(self, hyperparameters: SupervisedHyperparameters) -> tuple[ScoringPass, ...]:  # noqa: ARG002
        """Return the one pass over the completion."""
        return (ScoringPass("completion", "completion", with_grad=True),)

    def render(
        self,
        example: Example,
        renderer: Renderer,
        hyperparameters: SupervisedHyperparameters,  # noqa: ARG002
    ) -> RenderedExample:
        """Return the text to train; of an NLFT row that is its response, right or wrong.

        Raises:
            ValueError: The row has no response.
        """
        return RenderedExample({"completion": _render(example, renderer)})

    def loss(self, batch: ScoredBatch, hyperparameters: SupervisedHyperparameters) -> LossOutput:  # noqa: ARG002
        """Return -(1/n) sum_t log p_t for each example."""
        scores = batch.passes["completion"]
        return LossOutput(-mean_by_example(clamp_logprobs(scores.logprobs), scores))

    def explain(self, batch: ScoredBatch, hyperparameters: SupervisedHyperparameters) -> None:
        """Return None: every token weighs 1 and is raised."""


def _render(example: Example, renderer: Renderer) -> TokenSequence:
    if isinstance(example, ChatExample):
        return renderer.conversation(example.messages, example.tools)
    if isinstance(example, CompletionExample):
        return renderer.completion(example.prompt, example.completion)
    return renderer.exchange(example.prompt, renderer.response_text(example), example.tools)

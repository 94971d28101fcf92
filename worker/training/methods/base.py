"""What a training method is: declarations and arithmetic over log-probabilities.

To add one: write ``worker/training/methods/<name>.py`` with a ``Hyperparameters`` subclass and a class that follows
``Method``, and add its line to ``METHODS``. The catalogue, validation, docs and the contract tests pick it up. A method
owns no loop, model, tokenizer or device, and needs torch only as a type (under ``TYPE_CHECKING``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from pydantic import Field

from worker.training.data.examples import NLFTExample
from worker.training.errors import RowProblem
from worker.training.methods.auto import AUTO, Choice, RunFacts, choose, values
from worker.training.spec import LoraSettings, SpecModel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.training.data.examples import Example, Message
    from worker.training.types import (
        Explanation,
        LossOutput,
        RenderedExample,
        ScoredBatch,
        ScoringPass,
        TokenSequence,
    )

RequiredField = Literal["response", "reference"]


class Hyperparameters(SpecModel):
    """What every method lets a user set; each field also accepts "auto".

    A method's subclass adds its own fields and may override ``auto``.
    """

    n_epochs: int = Field(3, ge=1, le=50, description="Passes over the training rows.")
    batch_size: int = Field(8, ge=1, le=256, description="Examples per optimizer step.")
    learning_rate: float = Field(2e-4, gt=0, le=1, description="Peak learning rate of AdamW.")
    learning_rate_multiplier: float = Field(1.0, gt=0, description="Multiplies learning_rate.")
    lr_scheduler: str = Field("cosine", pattern="^(cosine|linear|constant)$", description="Decay after warm-up.")
    warmup_ratio: float = Field(0.1, ge=0, le=1, description="Share of the steps that ramp up linearly.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay.")
    max_grad_norm: float = Field(1.0, ge=0, description="Clip the gradient to this norm; 0 disables.")
    max_seq_length: int = Field(
        2048, ge=8, description="Longest rendered sequence in tokens; longer rows are an error."
    )
    early_stopping_patience: int = Field(
        0, ge=0, description="Epochs without a lower validation loss before training stops; 0 disables."
    )

    @classmethod
    def choices(cls, facts: RunFacts) -> Mapping[str, Choice]:
        """Return what "auto" stands for in a run with these facts, with reasons; a field left out keeps its default."""
        return choose(facts)

    @classmethod
    def auto(cls, facts: RunFacts) -> dict[str, Any]:
        """Return the values that "auto" stands for in a run with these facts."""
        return values(cls.choices(facts))

    @classmethod
    def presets(cls, requested: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG003 - for methods that have some
        """Return the values of the preset that the request names; they stand between the user's and "auto"."""
        return {}

    @classmethod
    def resolve(cls, requested: Mapping[str, Any], facts: RunFacts) -> Self:
        """Return complete hyperparameters: what the user set, else the preset's values, else what "auto" stands for.

        Raises:
            pydantic.ValidationError: A field is unknown or out of range.
        """
        return cls.model_validate({**cls.auto(facts), **cls.presets(requested), **cls._explicit(requested)})

    @classmethod
    def explain_auto(cls, requested: Mapping[str, Any], facts: RunFacts) -> dict[str, Choice]:
        """Return the value and the reason of every field that the user left to "auto" and that is no plain default."""
        explicit, preset = cls._explicit(requested), cls.presets(requested)
        named = {name: Choice(value, f"preset {requested.get('preset')}") for name, value in preset.items()}
        found = {**cls.choices(facts), **named}
        return {name: choice for name, choice in found.items() if name not in explicit}

    @classmethod
    def _explicit(cls, requested: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in requested.items() if value != AUTO or name not in cls.model_fields}

    def spelled_out(self) -> dict[str, Any]:
        """Return all values as JSON, names of texts (such as prompt sets) replaced by the texts."""
        return self.model_dump(mode="json")


class Renderer(Protocol):
    """What the engine offers a method to turn text into tokens. Ids are produced once per piece of text."""

    def conversation(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> TokenSequence:
        """Return a whole chat, with every assistant turn of weight other than 0 scored (its end token included)."""
        ...

    def exchange(
        self, messages: Sequence[Message], response: str, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> TokenSequence:
        """Return the chat prompt of ``messages`` followed by ``response`` and the end of turn, the response scored.

        The response's ids depend on ``response`` alone, so they are the same behind every prompt.
        """
        ...

    def response_text(self, example: NLFTExample) -> str:
        """Return the response of a row as the model would write it, tool calls of a final turn included."""
        ...

    def completion(self, prompt: str, completion: str) -> TokenSequence:
        """Return raw ``prompt`` then ``completion`` and the end token, the completion scored."""
        ...


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe has to say to the job's owner: a sentence and the figures behind it."""

    level: Literal["info", "warn"]
    message: str
    data: Mapping[str, float] = field(default_factory=dict)


class Probe(Protocol):
    """A measurement on the first rows of the training file, made once, with the untrained model."""

    sample_size: ClassVar[int]

    def passes(self, hyperparameters: Any) -> tuple[ScoringPass, ...]:
        """Return the forward passes to measure, all without gradient."""
        ...

    def render(self, example: Example, renderer: Renderer, hyperparameters: Any) -> RenderedExample:
        """Return the sequences to measure for one row."""
        ...

    def diagnose(self, batch: ScoredBatch, hyperparameters: Any) -> Finding:
        """Return what the scores of the sample mean for the run."""
        ...


class Method(Protocol):
    """A training method. Instances are stateless. ``probe`` is measured before training, None measures nothing.

    ``uses_judgments``: whether wrong responses are told from right ones, and judgments on them read.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    example_types: ClassVar[tuple[type[Example], ...]]
    required_fields: ClassVar[tuple[RequiredField, ...]]
    hyperparameters_type: ClassVar[type[Hyperparameters]]
    uses_judgments: ClassVar[bool]
    main_pass: ClassVar[str]
    probe: ClassVar[Probe | None]

    def adapter(self, hyperparameters: Any) -> LoraSettings:
        """Return the adapter settings used when the job names none."""
        ...

    def passes(self, hyperparameters: Any) -> tuple[ScoringPass, ...]:
        """Return the forward passes that the loss needs under these hyperparameters."""
        ...

    def render(self, example: Example, renderer: Renderer, hyperparameters: Any) -> RenderedExample:
        """Return the sequences and values of a row that ``find_problems`` finds nothing in."""
        ...

    def loss(self, batch: ScoredBatch, hyperparameters: Any) -> LossOutput:
        """Return one loss per example; every pass that was declared ``with_grad`` carries gradient."""
        ...

    def explain(self, batch: ScoredBatch, hyperparameters: Any) -> Explanation | None:
        """Return what the loss makes of every token of the main pass; None: no more than its token weights say."""
        ...


def find_problems(method: Method, example: Example, line: int) -> tuple[RowProblem, ...]:
    """Return what keeps the row on 1-based ``line`` from being trained with ``method``."""
    if not isinstance(example, method.example_types):
        return (RowProblem(line, "", "wrong_format", f"method {method.name} cannot train rows of this format"),)
    if not isinstance(example, NLFTExample):
        return ()
    texts = {"response": example.answer, "reference": example.reference}
    return tuple(
        RowProblem(line, field, f"missing_{field}", f"method {method.name} needs a {field} in every row")
        for field in method.required_fields
        if not texts[field]
    )

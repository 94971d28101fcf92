"""Saliency previews on the wire."""

from typing import Any, Literal

from pydantic import Field

from app.core.schemas import Schema
from worker.training.spec import FinalAnswerGrader, LocalGrader, SpecModel


class PreviewCreate(SpecModel):
    """Body of a preview."""

    model: str = Field(min_length=1, description="A base model, or a tuned model of the project.")
    examples: list[dict[str, Any]] = Field(
        min_length=1, description="Rows as in a training file; each needs what the method trains on."
    )
    method: str = Field("nlft", description="Whose weights to show: an id from `GET /v1/fine_tuning/methods`.")
    hyperparameters: dict[str, Any] | None = Field(
        None, description="As in a job; what is left out takes the value that a job would."
    )
    prompts: Any = Field(None, description="Shorthand for the hyperparameter of that name.")
    grader: LocalGrader = Field(
        FinalAnswerGrader(), description="Decides `correct` for rows that have neither `correct` nor `judgment`."
    )
    pass_threshold: float = Field(0.5, description="A response whose grade reaches this is right.")


class TokenRead(Schema):
    """One response token; probabilities lie in [0, 1]."""

    text: str
    id: int
    base: float = Field(description="Given the plain prompt, by the model at this step.")
    frozen_base: float | None = Field(description="The same by the bare base model, where it is compared with.")
    reference: float | None = Field(description="Given the reference; null where the method shows none.")
    judgment: float | None = Field(description="Given the judgment; null without one.")
    weight: float = Field(description="What multiplies the token's term in the loss.")
    class_: Literal["salient", "neighbour", "other"] = Field(alias="class")
    direction: Literal["raise", "lower", "none"]


class ExampleRead(Schema):
    """Which row a record is about."""

    file_line: int = Field(description="Its line in the training data; in a preview its place in the request, from 1.")
    correct: bool | None


class RecordRead(Schema):
    """A saliency record: one example at one step."""

    example: ExampleRead
    step: int
    loss: float = Field(description="Mean loss of the example in nats, as the method computes it.")
    weights_sum: float
    tokens: list[TokenRead]


class PreviewUsageRead(Schema):
    """What a preview cost."""

    scored_tokens: int = Field(description="Tokens run through the model.")
    cached_tokens: int = Field(description="Tokens whose scores the worker still knew.")
    seconds: float = Field(description="Computing time, without the wait for a worker.")


class PreviewRead(Schema):
    """Answer to a preview. The worker has written it; this documents it."""

    object: Literal["list"] = "list"
    model: str
    method: str
    hyperparameters: dict[str, Any] = Field(description='With every "auto" resolved.')
    data: list[RecordRead]
    usage: PreviewUsageRead
    has_more: Literal[False] = False

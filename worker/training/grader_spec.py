"""Settings of graders, in OpenAI's shapes and one of our own, checked as far as that goes without a response."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from worker.training.spec_model import SpecModel
from worker.training.syntax.formulas import check_formula
from worker.training.syntax.message_content import join_text_parts
from worker.training.syntax.patterns import check_pattern
from worker.training.syntax.templates import check_row_template, check_template

Template = Annotated[str, Field(min_length=1, max_length=20_000), AfterValidator(check_template)]
"""Text with ``{{ item.FIELD }}`` (a field of the row) and ``{{ sample.output_text }}`` (the response) filled in."""

Pattern = Annotated[str, Field(max_length=1000), AfterValidator(check_pattern)]
"""A regular expression that RE2 can run."""


class FinalAnswerGrader(SpecModel):
    """1 where the final answers of response and reference agree, numbers by value, else 0."""

    type: Literal["final_answer"] = "final_answer"
    name: str = Field("final_answer", min_length=1, max_length=200)
    extract: Literal["marker", "last_number", "boxed", "pattern"] = Field(
        "marker",
        description="Where the answer stands: behind `marker` (else the last number), the last number, the last "
        "`\\boxed{}`, or the last match of `pattern` (its first group, if it has one).",
    )
    marker: str = Field("####", max_length=100, description="Text before the final answer.")
    pattern: Pattern | None = Field(None, description="Regular expression (RE2); needed by `pattern` alone.")

    @model_validator(mode="after")
    def _require_pattern(self) -> Self:
        if (self.extract == "pattern") != (self.pattern is not None):
            raise ValueError("pattern belongs to extract 'pattern', and to no other")
        return self


class StringCheckGrader(SpecModel):
    """OpenAI's `string_check`: 1 where the comparison holds, else 0."""

    type: Literal["string_check"] = "string_check"
    name: str = Field(min_length=1, max_length=200)
    input: Template
    reference: Template
    operation: Literal["eq", "ne", "like", "ilike"]


class TextSimilarityGrader(SpecModel):
    """OpenAI's `text_similarity`: how close two texts are, in [0, 1]."""

    type: Literal["text_similarity"] = "text_similarity"
    name: str = Field(min_length=1, max_length=200)
    input: Template
    reference: Template
    evaluation_metric: Literal[
        "fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"
    ]


class GraderMessage(SpecModel):
    """A message to a scoring model."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Template, BeforeValidator(join_text_parts)]
    type: Literal["message"] = "message"


class SamplingSettings(SpecModel):
    """How an endpoint's model answers; null leaves the endpoint its own default."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(
        None,
        ge=1,
        le=32_768,
        validation_alias=AliasChoices("max_tokens", "max_completions_tokens"),
        serialization_alias="max_completions_tokens",
    )
    seed: int | None = Field(None, ge=0, le=2**31 - 1)
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


class ScoreModelGrader(SpecModel):
    """OpenAI's `score_model`: a model behind a configured endpoint answers with a number in `range`."""

    type: Literal["score_model"] = "score_model"
    name: str = Field(min_length=1, max_length=200)
    model: str = Field(min_length=1, description="`ENDPOINT` or `ENDPOINT/MODEL`, an endpoint set up by the operator.")
    input: list[GraderMessage] = Field(min_length=1, max_length=50)
    range: tuple[float, float] = (0.0, 1.0)
    sampling_params: SamplingSettings = SamplingSettings()

    @model_validator(mode="after")
    def _require_range(self) -> Self:
        if self.range[0] >= self.range[1]:
            raise ValueError("range is the lowest and the highest score, in this order")
        return self


def _refuse_unsupported(grader: Any) -> Any:
    kind = grader.get("type") if isinstance(grader, dict) else None
    if kind in _UNSUPPORTED_GRADERS:
        raise ValueError(f"graders of type '{kind}' are not supported: {_UNSUPPORTED_GRADERS[kind]}")
    return grader


_UNSUPPORTED_GRADERS = {
    "python": "this service runs no code of its users; 'multi' combines other graders by a formula",
    "label_model": "'score_model' asks a model for a number",
}

BasicGrader = Annotated[
    FinalAnswerGrader | StringCheckGrader | TextSimilarityGrader | ScoreModelGrader,
    Field(discriminator="type"),
    BeforeValidator(_refuse_unsupported),
]


class MultiGrader(SpecModel):
    """OpenAI's `multi`: an expression over the scores of other graders."""

    type: Literal["multi"] = "multi"
    name: str = Field(min_length=1, max_length=200)
    graders: dict[str, BasicGrader] = Field(min_length=1, max_length=20)
    calculate_output: str = Field(min_length=1, max_length=1000, description="Arithmetic over the graders' names.")

    @field_validator("calculate_output")
    @classmethod
    def _check_formula(cls, formula: str, fields: ValidationInfo) -> str:
        if "graders" in fields.data:
            check_formula(formula, fields.data["graders"])
        return formula


Grader = Annotated[
    FinalAnswerGrader | StringCheckGrader | TextSimilarityGrader | ScoreModelGrader | MultiGrader,
    Field(discriminator="type"),
    BeforeValidator(_refuse_unsupported),
]


def grader_parts(grader: Grader) -> tuple[BasicGrader, ...]:
    """Return the graders that score by themselves: those of a `multi`, or the grader itself."""
    return tuple(grader.graders.values()) if isinstance(grader, MultiGrader) else (grader,)


def result_reader(grader: Grader) -> FinalAnswerGrader:
    """Return how final answers are read where ``grader`` decides: its own way, or the default one."""
    return next((part for part in grader_parts(grader) if isinstance(part, FinalAnswerGrader)), FinalAnswerGrader())


def scoring_models(grader: Grader) -> list[tuple[tuple[str, ...], str]]:
    """Return the models that ``grader`` asks, each with the path of the part that asks it."""
    parts: dict[tuple[str, ...], BasicGrader | MultiGrader] = {(): grader}
    if isinstance(grader, MultiGrader):
        parts = {("graders", name): part for name, part in grader.graders.items()}
    return [(place, part.model) for place, part in parts.items() if isinstance(part, ScoreModelGrader)]


def _require_row_fields(grader: Grader) -> Grader:
    for part in grader_parts(grader):
        if isinstance(part, ScoreModelGrader):
            texts = [message.content for message in part.input]
        else:
            texts = [] if isinstance(part, FinalAnswerGrader) else [part.input, part.reference]
        for text in texts:
            check_row_template(text)
    return grader


def _refuse_endpoints(grader: Grader) -> Grader:
    if scoring_models(grader):
        raise ValueError("a grader that asks an endpoint cannot be used here; choose one that needs none")
    return grader


def _default_type(grader: Any) -> Any:
    return {"type": "final_answer", **grader} if isinstance(grader, dict) else grader


RowGrader = Annotated[Grader, BeforeValidator(_default_type), AfterValidator(_require_row_fields)]
"""A grader of rows of a training file: its templates use names that every row has. Without a type: final_answer."""

LocalGrader = Annotated[RowGrader, AfterValidator(_refuse_endpoints)]
"""A grader of rows that needs no endpoint."""

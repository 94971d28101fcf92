"""The frozen description of one training run, as the service stores it and the trainer reads it from ``spec.json``.

Workspace layout: ``spec.json``; ``inputs/training.jsonl``, ``inputs/validation.jsonl``; ``resume/`` (a checkpoint
folder to continue from, or absent); ``stages/`` (results of earlier building stages, by content);
``checkpoints/step-000025/``; ``saliency/``; ``outputs/`` (artifacts). Nothing else is read.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SPEC_FILE = "spec.json"
TRAINING_FILE = "inputs/training.jsonl"
VALIDATION_FILE = "inputs/validation.jsonl"
RESUME_DIR = "resume"
CHECKPOINTS_DIR = "checkpoints"
OUTPUTS_DIR = "outputs"
STAGES_DIR = "stages"
SALIENCY_DIR = "saliency"
MANIFEST_FILE = "manifest.json"


class SpecModel(BaseModel):
    """Base of everything a user writes into a job: unknown fields are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class BaseModelRef(SpecModel):
    """A base model folder, pinned by digest."""

    name: str
    path: str
    digest: str


class LoraSettings(SpecModel):
    """Low-rank adapters (https://arxiv.org/abs/2106.09685) through PEFT."""

    type: Literal["lora"] = "lora"
    r: int = Field(16, ge=1, le=512, description="Rank of the update.")
    alpha: float = Field(32.0, gt=0, description="Scale numerator: updates are multiplied by alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: Literal["all-linear"] | list[str] = Field(
        "all-linear", description="`all-linear` (every linear layer but the head) or names of modules."
    )
    use_rslora: bool = Field(False, description="Scale by alpha / sqrt(r) (https://arxiv.org/abs/2312.03732).")


Template = Annotated[str, Field(min_length=1, max_length=20_000)]
"""Text with ``{{ item.FIELD }}`` (a field of the row) and ``{{ sample.output_text }}`` (the response) filled in."""


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
    pattern: str | None = Field(None, max_length=1000, description="Regular expression; needed by `pattern` alone.")

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
    content: Template
    type: Literal["message"] = "message"


class SamplingSettings(SpecModel):
    """How an endpoint's model answers; null leaves the endpoint its own default."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1, le=32_768)
    seed: int | None = Field(None, ge=0, le=2**31 - 1)


class ScoreModelGrader(SpecModel):
    """OpenAI's `score_model`: a model behind a configured endpoint answers with a number in `range`."""

    type: Literal["score_model"] = "score_model"
    name: str = Field(min_length=1, max_length=200)
    model: str = Field(min_length=1, description="`ENDPOINT` or `ENDPOINT/MODEL`, an endpoint set up by the operator.")
    input: list[GraderMessage] = Field(min_length=1, max_length=50)
    range: tuple[float, float] = (0.0, 1.0)
    sampling_params: SamplingSettings = SamplingSettings()


BasicGrader = Annotated[
    FinalAnswerGrader | StringCheckGrader | TextSimilarityGrader | ScoreModelGrader, Field(discriminator="type")
]


class MultiGrader(SpecModel):
    """OpenAI's `multi`: an expression over the scores of other graders."""

    type: Literal["multi"] = "multi"
    name: str = Field(min_length=1, max_length=200)
    graders: dict[str, BasicGrader] = Field(min_length=1, max_length=20)
    calculate_output: str = Field(min_length=1, max_length=1000, description="Arithmetic over the graders' names.")


Grader = Annotated[
    FinalAnswerGrader | StringCheckGrader | TextSimilarityGrader | ScoreModelGrader | MultiGrader,
    Field(discriminator="type"),
]


class RolloutSettings(SpecModel):
    """How responses are sampled from the base model for rows that have none."""

    n: int = Field(4, ge=1, le=64, description="Responses sampled for each question.")
    temperature: float = Field(0.7, ge=0, le=2, description="0 takes the likeliest token.")
    top_p: float = Field(1.0, gt=0, le=1, description="Draw from the likeliest tokens that hold this much probability.")
    max_new_tokens: int = Field(256, ge=1, le=4096, description="Longest response in tokens.")
    batch_size: int = Field(64, ge=1, le=1024, description="Responses generated at a time.")


class TemplateJudge(SpecModel):
    """Needs no model: what the response concluded, what the reference does, and the step at which they part."""

    type: Literal["template"] = "template"


class SelfJudge(SpecModel):
    """The base model itself, shown the reference."""

    type: Literal["self"] = "self"
    max_new_tokens: int = Field(128, ge=1, le=2048, description="Longest judgment in tokens.")


class EndpointJudge(SpecModel):
    """A model behind an OpenAI-compatible endpoint that the operator has set up."""

    type: Literal["endpoint"] = "endpoint"
    model: str = Field(min_length=1, description="`ENDPOINT` or `ENDPOINT/MODEL`, an endpoint set up by the operator.")
    instruction: Template | None = Field(None, description="Replaces the built-in request for a judgment.")
    sampling_params: SamplingSettings = SamplingSettings()


Judge = Annotated[TemplateJudge | SelfJudge | EndpointJudge, Field(discriminator="type")]


class MixtureSettings(SpecModel):
    """Which of the graded rows are trained."""

    max_right_per_question: int | None = Field(None, ge=0, description="Most right responses kept of a question.")
    max_wrong_per_question: int | None = Field(None, ge=0, description="Most wrong responses kept of a question.")
    wrong_share: float | None = Field(
        None, ge=0, le=1, description="Share of wrong rows among all; rows of the kind in excess are dropped."
    )
    max_rows: int | None = Field(None, ge=1, description="Most rows in all.")
    references_as_right: bool = Field(
        False, description="Also train each question's reference as a right response (for worked references)."
    )


class BuildingSettings(SpecModel):
    """From raw rows to rows that can be trained: rollout, grade, judge, mix."""

    rollout: RolloutSettings = RolloutSettings()
    grader: Grader = FinalAnswerGrader()
    pass_threshold: float = Field(0.5, description="A response whose grade reaches this is right.")
    judge: Judge = TemplateJudge()
    mixture: MixtureSettings = MixtureSettings()


class EvaluationSettings(SpecModel):
    """Generated answers on the validation rows that carry a reference, before and after training."""

    generate: bool = Field(True, description="False computes the validation loss only.")
    max_examples: int = Field(256, ge=1, description="Rows to generate for, from the top of the file.")
    max_new_tokens: int = Field(256, ge=1, le=4096, description="Longest generated answer in tokens.")
    batch_size: int = Field(32, ge=1, description="Answers generated at a time.")
    grader: FinalAnswerGrader = FinalAnswerGrader()


class RuntimeSettings(SpecModel):
    """How to run, never what to compute: set by the operator's worker, absent from what users write."""

    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:0`.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="Base weights; the adapter is float32.")
    threads: int = Field(1, ge=1, description="CPU threads.")
    micro_batch_tokens: int = Field(8192, ge=1, description="Most tokens in one packed forward pass.")
    checkpoint_steps: int = Field(0, ge=0, description="Optimizer steps between checkpoints; 0: once per epoch.")
    deterministic: bool = Field(True, description="Bit-identical resume on the same machine.")


class TrainingSpec(SpecModel):
    """Everything that decides the result; every "auto" is resolved."""

    version: Literal[1] = 1
    job_id: str
    base_model: BaseModelRef
    method: str
    hyperparameters: dict[str, Any]
    adapter: LoraSettings = LoraSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    building: BuildingSettings = BuildingSettings()
    has_validation_file: bool = False
    seed: int = Field(0, ge=0, le=2**31 - 1)
    runtime: RuntimeSettings = RuntimeSettings()

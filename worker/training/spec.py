"""The frozen description of one training run, as the service stores it and the trainer reads it from ``spec.json``.

Workspace layout: ``spec.json``; ``inputs/training.jsonl``, ``inputs/validation.jsonl``; ``resume/`` (a checkpoint
folder to continue from, or absent); ``stages/`` (results of earlier building stages, by content); ``built/``;
``checkpoints/step-000025/``; ``saliency/``; ``outputs/`` (artifacts). Nothing else is read. A folder for several runs
has ``group.json`` instead (see ``group_protocol``).
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from worker.training.grader_spec import (
    BasicGrader,
    FinalAnswerGrader,
    Grader,
    GraderMessage,
    LocalGrader,
    MultiGrader,
    Pattern,
    RowGrader,
    SamplingSettings,
    ScoreModelGrader,
    StringCheckGrader,
    Template,
    TextSimilarityGrader,
    result_reader,
    scoring_models,
)
from worker.training.spec_model import SpecModel
from worker.training.syntax.templates import check_row_template

__all__ = [
    "BUILT_DIR",
    "CHECKPOINTS_DIR",
    "DATASET_FILE",
    "MANIFEST_FILE",
    "OUTPUTS_DIR",
    "RESUME_DIR",
    "SALIENCY_DIR",
    "SPEC_FILE",
    "STAGES_DIR",
    "TRAINING_FILE",
    "VALIDATION_FILE",
    "BaseModelRef",
    "BasicGrader",
    "BuildingSettings",
    "EndpointJudge",
    "EvaluationSettings",
    "FinalAnswerGrader",
    "Grader",
    "GraderMessage",
    "Judge",
    "LocalGrader",
    "LoraSettings",
    "MixtureSettings",
    "MultiGrader",
    "Pattern",
    "RationalizationSettings",
    "RolloutSettings",
    "RowGrader",
    "RuntimeSettings",
    "SamplingSettings",
    "ScoreModelGrader",
    "SelfJudge",
    "SpecModel",
    "StringCheckGrader",
    "Template",
    "TemplateJudge",
    "TextSimilarityGrader",
    "TrainingSpec",
    "result_reader",
]

SPEC_FILE = "spec.json"
TRAINING_FILE = "inputs/training.jsonl"
VALIDATION_FILE = "inputs/validation.jsonl"
RESUME_DIR = "resume"
CHECKPOINTS_DIR = "checkpoints"
OUTPUTS_DIR = "outputs"
STAGES_DIR = "stages"
BUILT_DIR = "built"
DATASET_FILE = "dataset.jsonl"
SALIENCY_DIR = "saliency"
SALIENCY_FILE = "saliency.jsonl"
MANIFEST_FILE = "manifest.json"


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
    layers_to_transform: Literal["all"] | Annotated[list[int], Field(min_length=1)] = Field(
        "all",
        description="`all` or indices of the decoder layers to adapt: 0 is the lowest, -1 the highest. Below the "
        "lowest adapted one nothing is kept for the backward pass, which ends there.",
    )
    cache_frozen_hidden_states: bool = Field(
        False,
        description="Keep from epoch to epoch what leaves the layers below the lowest adapted one, so that they run "
        "once for each text: the same adapter in less time, for more memory.",
    )
    use_rslora: bool = Field(False, description="Scale by alpha / sqrt(r) (https://arxiv.org/abs/2312.03732).")

    @model_validator(mode="after")
    def _require_frozen_layers(self) -> Self:
        if self.cache_frozen_hidden_states and self.layers_to_transform == "all":
            raise ValueError(
                "cache_frozen_hidden_states would have no effect: layers_to_transform leaves no layer frozen"
            )
        return self


class RolloutSettings(SpecModel):
    """How responses are sampled from the base model for rows that have none."""

    n: int = Field(4, ge=1, le=64, description="Responses sampled for each question.")
    temperature: float = Field(0.7, ge=0, le=2, description="0 takes the likeliest token.")
    top_p: float = Field(1.0, gt=0, le=1, description="Draw from the likeliest tokens that hold this much probability.")
    max_new_tokens: int = Field(256, ge=1, le=4096, description="Longest response in tokens.")
    batch_size: int = Field(64, ge=1, le=1024, description="Responses generated at a time.")


class RationalizationSettings(SpecModel):
    """How questions that no response solves are answered with the reference shown (STaR); sampled as the rollout is."""

    n: int = Field(4, ge=0, le=64, description="Responses sampled for each such question; 0: none.")
    questions: Literal["auto", "all"] = Field(
        "auto",
        description="`auto` passes over questions whose worked reference is trained itself "
        "(`mixture.references_as_right`); `all` does not.",
    )
    replaces_wrong: bool = Field(
        True, description="Whether what is added takes the place of the question's wrong responses."
    )


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
    instruction: Annotated[Template, AfterValidator(check_row_template)] | None = Field(
        None, description="Replaces the built-in request for a judgment."
    )
    sampling_params: SamplingSettings = SamplingSettings()


Judge = Annotated[TemplateJudge | SelfJudge | EndpointJudge, Field(discriminator="type")]


class MixtureSettings(SpecModel):
    """Which of the graded rows are trained."""

    max_right_per_question: int | None = Field(None, ge=0, description="Most right responses kept of a question.")
    max_wrong_per_question: Annotated[int, Field(ge=0)] | Literal["auto"] | None = Field(
        "auto",
        description="Most wrong responses kept of a question; null: all. `auto`: all, but none of a job's own "
        "responses where the references hold results only, which cannot tell a wrong step from a right one.",
    )
    wrong_share: float | None = Field(
        None, ge=0, le=1, description="Share of wrong rows among all; rows of the kind in excess are dropped."
    )
    max_rows: int | None = Field(None, ge=1, description="Most rows in all.")
    references_as_right: bool | Literal["auto"] = Field(
        "auto",
        description="Also train each question's reference as a right response (for worked references). `auto`: that of "
        "questions that were sampled for and have no right response, where it shows its steps and no model grades.",
    )


class BuildingSettings(SpecModel):
    """From raw rows to rows that can be trained: rollout, grade, judge, mix."""

    rollout: RolloutSettings = RolloutSettings()
    rationalization: RationalizationSettings = RationalizationSettings()
    grader: RowGrader = FinalAnswerGrader()
    pass_threshold: float = Field(0.5, description="A response whose grade reaches this is right.")
    judge: Judge | None = Field(TemplateJudge(), description="Null leaves wrong responses without a judgment.")
    mixture: MixtureSettings = MixtureSettings()

    @property
    def settled_mixture(self) -> MixtureSettings:
        """The mixture, its ``references_as_right`` off where "auto" must not take references.

        What a model is asked to grade by need not be an answer: a list of points to look for is none.
        """
        if self.mixture.references_as_right == "auto" and scoring_models(self.grader):
            return self.mixture.model_copy(update={"references_as_right": False})
        return self.mixture


class EvaluationSettings(SpecModel):
    """Generated answers on the validation rows that carry a reference, before and after training."""

    generate: bool = Field(True, description="False computes the validation loss only.")
    max_examples: int = Field(256, ge=1, description="Rows to generate for, from the top of the file.")
    max_new_tokens: int = Field(256, ge=1, le=4096, description="Longest generated answer in tokens.")
    batch_size: int = Field(32, ge=1, description="Answers generated at a time.")
    grader: LocalGrader = FinalAnswerGrader()
    pass_threshold: float = Field(0.5, description="An answer whose grade reaches this is right.")


class SaliencySettings(SpecModel):
    """Which training rows are followed through the run, token by token, and shown in the report."""

    lines: list[Annotated[int, Field(ge=1)]] | None = Field(
        None, max_length=50, description="1-based lines of the training data; null chooses by `right` and `wrong`."
    )
    right: int = Field(4, ge=0, le=25, description="Rows with a right response to follow, spread over the data.")
    wrong: int = Field(4, ge=0, le=25, description="Rows with a wrong response to follow, judged ones first.")


class RuntimeSettings(SpecModel):
    """How to run, never what to compute: set by the operator's worker, absent from what users write."""

    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:0`.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="Base weights; the adapter is float32.")
    threads: int = Field(1, ge=1, description="CPU threads.")
    micro_batch_tokens: int = Field(8192, ge=1, description="Most tokens in one packed forward pass.")
    checkpointed_layers: int = Field(
        0, ge=0, description="Decoder layers computed again in the backward pass: slower, in less memory."
    )
    hidden_state_cache_bytes: int = Field(
        4 * 2**30, ge=0, description="Most host memory of a process for hidden states that a job asks to keep."
    )
    shard_base: bool = Field(False, description="Each of several processes holds a share of every decoder layer.")
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
    saliency: SaliencySettings = SaliencySettings()
    has_validation_file: bool = False
    seed: int = Field(0, ge=0, le=2**31 - 1)
    n_gpus: int = Field(1, ge=1, description="Devices that train together, one process on each.")
    runtime: RuntimeSettings = RuntimeSettings()

"""The frozen description of one training run, as the service stores it and the trainer reads it from ``spec.json``.

Workspace layout: ``spec.json``; ``inputs/training.jsonl``, ``inputs/validation.jsonl``; ``resume/`` (a checkpoint
folder to continue from, or absent); ``checkpoints/step-000025/``; ``outputs/`` (artifacts). Nothing else is read.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SPEC_FILE = "spec.json"
TRAINING_FILE = "inputs/training.jsonl"
VALIDATION_FILE = "inputs/validation.jsonl"
RESUME_DIR = "resume"
CHECKPOINTS_DIR = "checkpoints"
OUTPUTS_DIR = "outputs"
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


class FinalAnswerGrader(SpecModel):
    """Compares the number after the marker (else the last number) with the reference's, by value."""

    type: Literal["final_answer"] = "final_answer"
    marker: str = Field("####", description="Text before the final answer.")


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
    has_validation_file: bool = False
    seed: int = Field(0, ge=0, le=2**31 - 1)
    runtime: RuntimeSettings = RuntimeSettings()

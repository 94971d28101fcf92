"""Graders on the wire, as OpenAI's SDK reads and writes them."""

from typing import Any

from pydantic import Field

from app.core.schemas import Schema
from worker.training.grader_spec import Grader


class GraderRun(Schema):
    """A grader and a response to score."""

    grader: Grader
    model_sample: str = Field(
        description="The response: `sample.output_text`, and `sample.output_json` where it is JSON."
    )
    item: dict[str, Any] = Field(default_factory=dict, description="The row: `item` in templates.")


class GraderValidate(Schema):
    """A grader to check."""

    grader: Grader


class GraderValidated(Schema):
    """A grader that can be used, with its defaults filled in."""

    grader: Grader


class GraderErrors(Schema):
    """What kept a response from being scored. Errors of `python` graders, which this service refuses, never occur."""

    formula_parse_error: bool = False
    sample_parse_error: bool = False
    sample_parse_error_details: str | None = None
    truncated_observation_error: bool = False
    unresponsive_reward_error: bool = False
    invalid_variable_error: bool = False
    invalid_variable_error_details: str | None = None
    other_error: bool = False
    other_error_details: str | None = None
    python_grader_server_error: bool = False
    python_grader_server_error_type: str | None = None
    python_grader_runtime_error: bool = False
    python_grader_runtime_error_details: str | None = None
    model_grader_server_error: bool = False
    model_grader_refusal_error: bool = False
    model_grader_parse_error: bool = False
    model_grader_server_error_details: str | None = None
    model_grader_parse_error_details: str | None = None


class GraderRunMetadata(Schema):
    """How a score came about. `execution_time` is in seconds, `token_usage` counts what scoring models were paid."""

    name: str
    type: str
    errors: GraderErrors
    execution_time: float
    scores: dict[str, float]
    token_usage: int | None
    sampled_model_name: str | None


class GraderRunResult(Schema):
    """The score of a response; 0 where `metadata.errors` has one."""

    reward: float
    metadata: GraderRunMetadata
    sub_rewards: dict[str, float] = Field(description="Scores of the parts of a `multi` grader.")
    model_grader_token_usage_per_model: dict[str, int]

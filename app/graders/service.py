"""Runs and checks graders. Scoring models are asked within a bounded time, by a few callers at once."""

import threading
import time

from app.completions.client import EndpointClient
from app.completions.configuration import Endpoints
from app.completions.validation import require_endpoint
from app.core.errors import RateLimitError
from app.graders.schemas import GraderErrors, GraderRun, GraderRunMetadata, GraderRunResult
from worker.training.grader_spec import Grader, scoring_models
from worker.training.graders import Grade, GradeError, Sample, grade

_LONGEST_ANSWER_SECONDS = 60.0
# Whoever asks a scoring model keeps a thread of the API waiting; the other threads are for everybody else.
_ASKING = threading.BoundedSemaphore(8)


class _TooSlowError(Exception):
    """Scoring models took longer than a caller of the API is kept waiting."""


def check(grader: Grader, endpoints: Endpoints) -> None:
    """Check what the grader's own settings cannot tell.

    Raises:
        InvalidRequestError: It asks an endpoint that the operator has not set up.
    """
    for place, model in scoring_models(grader):
        require_endpoint(endpoints, model, param=".".join(["grader", *place, "model"]))


def run(asked: GraderRun, endpoints: Endpoints) -> GraderRunResult:
    """Return what the grader says of the response.

    Raises:
        InvalidRequestError: It asks an endpoint that the operator has not set up.
        RateLimitError: Too many callers wait for scoring models.
    """
    check(asked.grader, endpoints)
    started = time.monotonic()
    sample = Sample(asked.model_sample, asked.item)
    models = sorted({model for _, model in scoring_models(asked.grader)})
    found = _ask(asked.grader, sample, endpoints) if models else grade(asked.grader, sample)
    return GraderRunResult(
        reward=found.score,
        metadata=GraderRunMetadata(
            name=asked.grader.name,
            type=asked.grader.type,
            errors=_errors(found),
            execution_time=time.monotonic() - started,
            scores=dict(found.scores) or {asked.grader.name: found.score},
            token_usage=sum(found.tokens.values()) if models else None,
            sampled_model_name=", ".join(models) or None,
        ),
        sub_rewards=dict(found.scores),
        model_grader_token_usage_per_model=dict(found.tokens),
    )


def _ask(grader: Grader, sample: Sample, endpoints: Endpoints) -> Grade:
    if not _ASKING.acquire(blocking=False):
        raise RateLimitError("Too many graders are waiting for scoring models; try again in a few seconds.")
    deadline = time.monotonic() + _LONGEST_ANSWER_SECONDS

    def give_up_in_time(_done: int, _total: int) -> None:
        if time.monotonic() > deadline:
            raise _TooSlowError

    try:
        with EndpointClient(endpoints) as client:
            return grade(grader, sample, client, give_up_in_time)
    except _TooSlowError:
        message = f"timeout: no answer within {_LONGEST_ANSWER_SECONDS:g} seconds"
        return Grade(0.0, errors=(GradeError("model_grader_server_error", message),))
    finally:
        _ASKING.release()


def _errors(found: Grade) -> GraderErrors:
    """Return OpenAI's flags, with the first message of each kind beside them."""
    flags: dict[str, bool | str] = {}
    for error in found.errors:
        flags[error.kind] = True
        if f"{error.kind}_details" in GraderErrors.model_fields:
            flags.setdefault(f"{error.kind}_details", error.message)
    return GraderErrors.model_validate(flags)

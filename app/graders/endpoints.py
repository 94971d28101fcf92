"""Routes of graders."""

from fastapi import APIRouter

from app.dependencies import JobsWriter, ModelEndpoints
from app.graders import service
from app.graders.schemas import GraderRun, GraderRunResult, GraderValidate, GraderValidated

router = APIRouter(tags=["fine-tuning"])


@router.post("/v1/fine_tuning/alpha/graders/run")
def run_grader(body: GraderRun, _key: JobsWriter, endpoints: ModelEndpoints) -> GraderRunResult:
    """Score one response with a grader."""
    return service.run(body, endpoints)


@router.post("/v1/fine_tuning/alpha/graders/validate", response_model_exclude_none=True)
def validate_grader(body: GraderValidate, _key: JobsWriter, endpoints: ModelEndpoints) -> GraderValidated:
    """Check a grader; answers with its settings, defaults filled in."""
    service.check(body.grader, endpoints)
    return GraderValidated(grader=body.grader)

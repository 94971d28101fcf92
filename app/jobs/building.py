"""What a user wrote about building rows, checked against the rows and the operator's endpoints."""

from collections.abc import Collection, Iterator

from app.completions.configuration import Endpoints
from app.completions.validation import require_endpoint
from app.core.errors import InvalidRequestError
from app.db.models.file import File
from app.jobs.resolution import RequestedMethod
from worker.training.grader_spec import scoring_models
from worker.training.spec import BuildingSettings, EndpointJudge

_BUILT_FORMAT = "nlft"


def resolve_building(requested: RequestedMethod, training_file: File, endpoints: Endpoints) -> BuildingSettings | None:
    """Return complete settings of the building stages; None for rows of a format that is trained as it is.

    Raises:
        InvalidRequestError: A setting would have no effect, or names an endpoint that there is not.
    """
    report = training_file.report or {}
    given = {
        name: value
        for name in BuildingSettings.model_fields
        if (value := getattr(requested.settings, name)) is not None
    }
    if report.get("format") != _BUILT_FORMAT:
        for name in given:
            raise _idle(requested, name, f"needs rows of the format '{_BUILT_FORMAT}'")
        return None
    _refuse_idle_stages(requested, given, lacks_responses=bool(report.get("counts", {}).get("without_response")))
    building = BuildingSettings(**given)
    for place, model in _asked_models(building):
        require_endpoint(endpoints, model, param=f"{requested.block}.{place}")
    return building


def _refuse_idle_stages(requested: RequestedMethod, given: Collection[str], *, lacks_responses: bool) -> None:
    for name in ("rollout", "rationalization"):
        if name in given and not lacks_responses:
            raise _idle(requested, name, "would sample nothing: every row of the training file has a response")
    method = requested.method
    if method.uses_judgments:
        return
    if "judge" in given:
        raise _idle(requested, "judge", f"would have no effect: the method '{method.name}' reads no judgments")
    # Such a method needs a verdict on a response only where one decides which rows are trained.
    for name in ("grader", "pass_threshold"):
        if name in given and not lacks_responses and "mixture" not in given:
            reason = f"would have no effect: the method '{method.name}' trains right and wrong responses alike"
            raise _idle(requested, name, reason)


def _asked_models(building: BuildingSettings) -> Iterator[tuple[str, str]]:
    """Yield place and name of every model behind an endpoint that the settings ask."""
    if isinstance(building.judge, EndpointJudge):
        yield "judge.model", building.judge.model
    for place, model in scoring_models(building.grader):
        yield ".".join(["grader", *place, "model"]), model


def _idle(requested: RequestedMethod, name: str, reason: str) -> InvalidRequestError:
    param = f"{requested.block}.{name}"
    return InvalidRequestError(f"'{param}' {reason}.", param=param, code="invalid_value")

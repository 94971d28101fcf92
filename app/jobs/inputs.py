"""What a job refers to: the allowed base model and the project's checked files."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.core.errors import InvalidRequestError, NotFoundError, ServiceError
from app.db.models.base_model import BaseModel
from app.db.models.file import File
from app.db.models.fine_tuning_job import FineTuningJob
from app.files import repository as files
from app.files.schemas import FINE_TUNE
from app.jobs.schemas import JobCreate
from app.methods.service import row_formats
from app.models import repository as models
from worker.training.methods.base import Method


class NamedRows:
    """The base models and files that create calls name, each kind read by one statement.

    The files are locked against deletion until the transaction ends.

    Args:
        session: Session of the transaction that creates the jobs.
        calls: Project and body of each call.
    """

    def __init__(self, session: Session, calls: Sequence[tuple[str, JobCreate]]) -> None:
        named = {name for _, body in calls for name in (body.training_file, body.validation_file) if name is not None}
        kept = files.keep_files(session, {project_id for project_id, _ in calls}, named)
        self.session = session
        self._files = {(file.project_id, file.id): file for file in kept}
        found = models.find_base_models(session, {body.model for _, body in calls})
        self._base_models = {base_model.id: base_model for base_model in found}

    def find_file(self, project_id: str, file_id: str) -> File | None:
        """Return the project's file."""
        return self._files.get((project_id, file_id))

    def find_base_model(self, name: str) -> BaseModel | None:
        """Return the allow-listed base model."""
        return self._base_models.get(name)


@dataclass(frozen=True, slots=True)
class JobInputs:
    """The rows that a job refers to."""

    base_model: BaseModel
    training_file: File
    validation_file: File | None

    @property
    def training_rows(self) -> int:
        """Rows of the training file, as counted at upload."""
        return int((self.training_file.report or {})["rows"])


def find_inputs(rows: NamedRows, project_id: str, body: JobCreate, method: Method) -> JobInputs:
    """Return the base model and the files that ``body`` names, fit for ``method``.

    Raises:
        InvalidRequestError: A file or the base model cannot be used; ``param`` names the field.
        NotFoundError: There is no such base model.
    """
    base_model = rows.find_base_model(body.model)
    if base_model is None:
        raise _unknown_base_model(rows.session, project_id, body.model)
    found = rows.find_file(project_id, body.training_file)
    training_file = _check_file(found, body.training_file, "training_file", method)
    validation_file = None
    if body.validation_file is not None:
        found = rows.find_file(project_id, body.validation_file)
        validation_file = _check_file(found, body.validation_file, "validation_file", method)
    return JobInputs(base_model, training_file, validation_file)


def recall_inputs(session: Session, job: FineTuningJob) -> JobInputs:
    """Return what a job refers to.

    Raises:
        NoResultFound: Something of it is gone.
    """
    validation_file = None
    if job.validation_file_id is not None:
        validation_file = session.get_one(File, job.validation_file_id)
    base_model = session.get_one(BaseModel, job.base_model_id)
    return JobInputs(base_model, session.get_one(File, job.training_file_id), validation_file)


def _unknown_base_model(session: Session, project_id: str, name: str) -> ServiceError:
    if models.find_adapter(session, project_id, name) is not None:
        return InvalidRequestError(
            f"'{name}' is a tuned model. Training on top of a tuned model is not supported; name a base model.",
            param="model",
            code="not_supported",
        )
    names = ", ".join(allowed.id for allowed in models.list_base_models(session)) or "none yet"
    message = f"The model '{name}' does not exist or may not be fine-tuned. Available: {names}."
    return NotFoundError(message, param="model", code="model_not_found")


def _check_file(file: File | None, file_id: str, param: str, method: Method) -> File:
    if file is None:
        raise InvalidRequestError(f"The file '{file_id}' does not exist.", param=param, code="file_not_found")
    if file.purpose != FINE_TUNE:
        message = f"The file '{file_id}' has purpose '{file.purpose}'; upload it with purpose '{FINE_TUNE}'."
        raise InvalidRequestError(message, param=param, code="invalid_file_purpose")
    report = file.report or {}
    accepted = row_formats(method)
    if report.get("format") not in accepted:
        raise InvalidRequestError(
            f"The file '{file_id}' holds {report.get('format')} rows; "
            f"the method '{method.name}' trains on: {', '.join(accepted)}.",
            param=param,
            code="invalid_file_format",
        )
    _check_fields(file, param, method)
    return file


def _check_fields(file: File, param: str, method: Method) -> None:
    """Refuse a training file whose rows lack what the method needs; validation rows without it are only graded.

    Responses are no matter: what has none has a reference, as every upload is checked for, and gets sampled ones.
    """
    counts = (file.report or {}).get("counts", {})
    for field in set(method.required_fields) - {"response"} if param == "training_file" else ():
        lacking = counts.get(f"without_{field}", 0)
        if lacking:
            raise InvalidRequestError(
                f"{lacking} row(s) of the file '{file.id}' have no '{field}'; "
                f"the method '{method.name}' needs one in every row.",
                param=param,
                code=f"missing_{field}",
            )

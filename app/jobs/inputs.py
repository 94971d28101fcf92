"""What a job refers to: the allowed base model and the project's checked files."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.core.errors import InvalidRequestError, NotFoundError
from app.db.models.base_model import BaseModel
from app.db.models.file import File
from app.files import repository as files
from app.files.schemas import FINE_TUNE
from app.jobs.schemas import JobCreate
from app.methods.service import row_formats
from app.models import repository as models
from worker.training.methods.base import Method


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


def find_inputs(session: Session, project_id: str, body: JobCreate, method: Method) -> JobInputs:
    """Return the base model and the files that ``body`` names, fit for ``method``.

    The files are locked against deletion until the transaction ends.

    Raises:
        InvalidRequestError: A file or the base model cannot be used; ``param`` names the field.
        NotFoundError: There is no such base model.
    """
    base_model = _find_base_model(session, project_id, body.model)
    training_file = _find_file(session, project_id, body.training_file, "training_file", method)
    validation_file = None
    if body.validation_file is not None:
        validation_file = _find_file(session, project_id, body.validation_file, "validation_file", method)
    inputs = JobInputs(base_model, training_file, validation_file)
    session.info["inputs"] = inputs  # a session alone forgets rows that nobody holds, and would ask for them again
    return inputs


def _find_base_model(session: Session, project_id: str, name: str) -> BaseModel:
    base_model = models.find_base_model(session, name)
    if base_model is not None:
        return base_model
    if models.find_adapter(session, project_id, name) is not None:
        raise InvalidRequestError(
            f"'{name}' is a tuned model. Training on top of a tuned model is not supported; name a base model.",
            param="model",
            code="not_supported",
        )
    names = ", ".join(allowed.id for allowed in models.list_base_models(session)) or "none yet"
    message = f"The model '{name}' does not exist or may not be fine-tuned. Available: {names}."
    raise NotFoundError(message, param="model", code="model_not_found")


def _find_file(session: Session, project_id: str, file_id: str, param: str, method: Method) -> File:
    file = files.find_file(session, project_id, file_id, keep=True)
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

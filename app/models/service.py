"""Rules of models. Every function that changes something commits before it returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.errors import ConflictError, InvalidRequestError, NotFoundError, PermissionDeniedError
from app.db.models import BaseModel
from app.models import repository
from app.models.schemas import Model
from app.storage.release import release_adapter

SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class BaseModelFacts:
    """What an operator registers.

    Attributes:
        id: The name that jobs use; no colon, because that marks tuned models.
        path: Absolute folder of the imported model, as the workers see it.
        digest: What ``worker.training.model`` computed over its files.
        architecture: Transformers class name.
        parameters: Number of weights.
        context_length: Longest sequence in tokens.
        details: Anything else worth keeping (license, source, dtype).
    """

    id: str
    path: str
    digest: str
    architecture: str
    parameters: int
    context_length: int
    details: Mapping[str, Any] = field(default_factory=dict)


def register_base_model(session: Session, facts: BaseModelFacts) -> BaseModel:
    """Put a base model on the allow list; doing it again with the same digest updates where it lies.

    Raises:
        InvalidRequestError: The name has a colon, or is empty.
        ConflictError: The name stands for other weights already.
    """
    if not facts.id or ":" in facts.id:
        raise InvalidRequestError(f"A base model's name must not be empty or hold a colon: '{facts.id}'.", param="name")
    values = {
        "id": facts.id,
        "path": facts.path,
        "digest": facts.digest,
        "architecture": facts.architecture,
        "parameters": facts.parameters,
        "context_length": facts.context_length,
        "details": dict(facts.details),
    }
    statement = insert(BaseModel).values(values)
    registered = session.execute(
        statement.on_conflict_do_update(
            index_elements=[BaseModel.id],
            set_={"path": facts.path, "details": dict(facts.details)},
            where=BaseModel.digest == facts.digest,
        ).returning(BaseModel.id)
    ).one_or_none()
    session.commit()
    if registered is None:
        raise ConflictError(
            f"Base model '{facts.id}' is registered with other weights; register these under another name.",
            param="name",
        )
    row = repository.find_base_model(session, facts.id)
    assert row is not None
    return row


def list_base_models(session: Session) -> Sequence[BaseModel]:
    """Return every allow-listed base model by name."""
    return repository.list_base_models(session)


def list_models(session: Session, project_id: str) -> list[Model]:
    """Return the base models, then the project's tuned models, newest first."""
    bases = [_base(row) for row in repository.list_base_models(session)]
    tuned = [
        Model(id=row.model, created=row.created_at, owned_by=row.project_id)
        for row in repository.list_adapters(session, project_id)
    ]
    return bases + tuned


def get_model(session: Session, project_id: str, name: str) -> Model:
    """Return the model that the project knows under this name.

    Raises:
        NotFoundError: There is none.
    """
    base = repository.find_base_model(session, name)
    if base is not None:
        return _base(base)
    adapter = repository.find_adapter(session, project_id, name)
    if adapter is None:
        raise _no_such_model(name)
    return Model(id=adapter.model, created=adapter.created_at, owned_by=adapter.project_id)


def delete_model(session: Session, project_id: str, name: str) -> None:
    """Delete a tuned model and the files of its adapter; its job stays readable.

    Raises:
        NotFoundError: The project has no such model.
        PermissionDeniedError: It is a base model, which only the operator removes.
    """
    adapter = repository.find_adapter(session, project_id, name, for_update=True)
    if adapter is not None:
        release_adapter(session, adapter)
        session.commit()
        return
    if repository.find_base_model(session, name) is not None:
        raise PermissionDeniedError(
            f"'{name}' is a base model; only tuned models can be deleted.", param="model", code="base_model"
        )
    raise _no_such_model(name)


def _base(row: BaseModel) -> Model:
    return Model(id=row.id, created=row.created_at, owned_by=SYSTEM)


def _no_such_model(name: str) -> NotFoundError:
    return NotFoundError(
        f"The model '{name}' does not exist or you do not have access to it.", param="model", code="model_not_found"
    )

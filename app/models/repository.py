"""Queries on base models and on the names of tuned ones."""

from collections.abc import Collection, Sequence

from sqlalchemy import any_, bindparam, select
from sqlalchemy.dialects.postgresql import ARRAY, TEXT
from sqlalchemy.orm import Session

from app.db.models import Adapter, BaseModel

_NAMED = select(BaseModel).where(BaseModel.id == any_(bindparam("names", type_=ARRAY(TEXT))))


def find_base_model(session: Session, name: str) -> BaseModel | None:
    """Return the allow-listed base model, or None."""
    return session.get(BaseModel, name)


def find_base_models(session: Session, names: Collection[str]) -> Sequence[BaseModel]:
    """Return the allow-listed base models among ``names``."""
    return session.scalars(_NAMED, {"names": list(names)}).all()


def list_base_models(session: Session) -> Sequence[BaseModel]:
    """Return every allow-listed base model by name."""
    return session.scalars(select(BaseModel).order_by(BaseModel.id)).all()


def find_adapter(session: Session, project_id: str, model: str, *, for_update: bool = False) -> Adapter | None:
    """Return the project's adapter of this model name unless it was deleted; locked if asked to."""
    statement = select(Adapter).where(
        Adapter.model == model, Adapter.project_id == project_id, Adapter.deleted_at.is_(None)
    )
    return session.scalars(statement.with_for_update() if for_update else statement).one_or_none()


def list_adapters(session: Session, project_id: str) -> Sequence[Adapter]:
    """Return the project's adapters, newest first."""
    return session.scalars(
        select(Adapter)
        .where(Adapter.project_id == project_id, Adapter.deleted_at.is_(None))
        .order_by(Adapter.id.desc())
    ).all()

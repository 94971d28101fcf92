"""Routes of models. A model's name may hold slashes, raw or as ``%2F``."""

from fastapi import APIRouter

from app.core.schemas import Deleted
from app.dependencies import DbSession, ModelsReader, ModelsWriter
from app.models import service
from app.models.schemas import Model, ModelList

router = APIRouter(tags=["models"])


@router.get("/v1/models")
def list_models(key: ModelsReader, session: DbSession) -> ModelList:
    """List the base models and the project's tuned models."""
    return ModelList(data=service.list_models(session, key.project_id))


@router.get("/v1/models/{model:path}")
def get_model(model: str, key: ModelsReader, session: DbSession) -> Model:
    """Return one model."""
    return service.get_model(session, key.project_id, model)


@router.delete("/v1/models/{model:path}")
def delete_model(model: str, key: ModelsWriter, session: DbSession) -> Deleted:
    """Delete a tuned model."""
    service.delete_model(session, key.project_id, model)
    return Deleted(id=model, object="model")

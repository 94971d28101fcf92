"""Route of the methods catalogue."""

from fastapi import APIRouter

from app.dependencies import JobsReader
from app.methods import service
from app.methods.schemas import MethodList

router = APIRouter(tags=["fine-tuning"])


@router.get("/v1/fine_tuning/methods")
def list_methods(_key: JobsReader) -> MethodList:
    """List the training methods with the schemas of their settings and rows."""
    return MethodList(data=list(service.list_methods()))

"""Routes of the methods catalogue: what may stand in a job."""

from fastapi import APIRouter

from app.dependencies import JobsReader, ModelEndpoints
from app.methods import service
from app.methods.schemas import EndpointList, MethodList

router = APIRouter(tags=["fine-tuning"])


@router.get("/v1/fine_tuning/methods")
def list_methods(_key: JobsReader) -> MethodList:
    """List the training methods with the schemas of their settings and rows."""
    return MethodList(data=list(service.list_methods()))


@router.get("/v1/fine_tuning/endpoints")
def list_endpoints(_key: JobsReader, endpoints: ModelEndpoints) -> EndpointList:
    """List the model endpoints that a judge or a grader may name, without addresses."""
    return EndpointList(data=service.list_endpoints(endpoints))

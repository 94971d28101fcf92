"""The catalogue of training methods, derived from the registry of the training library.

Nothing is written down twice: a method that joins ``METHODS`` appears here, in the OpenAPI document and in validation.
"""

from functools import lru_cache

import msgspec

from app.completions.configuration import Endpoints
from app.methods.documents import document_hyperparameters
from app.methods.schemas import EndpointRead, MethodRead, RowRead
from worker.training.data.examples import EXAMPLE_TYPES, RowFormat
from worker.training.methods import METHODS
from worker.training.methods.base import Method
from worker.training.spec import BuildingSettings, EvaluationSettings, SaliencySettings


@lru_cache
def list_methods() -> tuple[MethodRead, ...]:
    """Return every registered method, in the order of the registry."""
    return tuple(_describe(method) for method in METHODS.values())


def row_formats(method: Method) -> list[RowFormat]:
    """Return the names of the row formats that a method trains on."""
    return [name for name, example_type in EXAMPLE_TYPES.items() if example_type in method.example_types]


def list_endpoints(endpoints: Endpoints) -> list[EndpointRead]:
    """Return what a job may know about the operator's endpoints."""
    return [
        EndpointRead(
            id=name,
            model=endpoint.model,
            models=list(endpoint.known_models),
            max_requests=endpoint.max_requests,
            max_tokens=endpoint.max_tokens,
        )
        for name, endpoint in endpoints.items()
    ]


def _describe(method: Method) -> MethodRead:
    defaults = method.hyperparameters_type()
    adapter = method.adapter(defaults)
    return MethodRead(
        id=method.name,
        summary=method.summary,
        paper=method.paper,
        hyperparameters=document_hyperparameters(method.hyperparameters_type).model_json_schema(),
        defaults=defaults.model_dump(mode="json"),
        adapter=type(adapter).model_json_schema(),
        adapter_defaults=adapter.model_dump(mode="json"),
        evaluation=EvaluationSettings.model_json_schema(),
        saliency=SaliencySettings.model_json_schema(),
        building=BuildingSettings.model_json_schema(),
        building_defaults=BuildingSettings().model_dump(mode="json"),
        rows=[
            RowRead(format=name, json_schema=msgspec.json.schema(EXAMPLE_TYPES[name])) for name in row_formats(method)
        ],
    )

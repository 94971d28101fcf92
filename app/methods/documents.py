"""JSON Schemas of what a user may write about a method, built from the registry of the training library.

They document; they do not validate. A value or "auto" is a union, and errors about members of a union are hard to
read: ``Hyperparameters.resolve`` takes "auto" out first and then validates plain types.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, create_model
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from worker.training.methods import METHODS
from worker.training.methods.auto import AUTO
from worker.training.methods.base import Hyperparameters
from worker.training.spec import (
    EvaluationSettings,
    Judge,
    LoraSettings,
    MixtureSettings,
    RationalizationSettings,
    RolloutSettings,
    RowGrader,
    SaliencySettings,
)


class Documented:
    """Annotation that shows a free-form field as ``model`` in the JSON Schema."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._model = model

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema of the model in place of the field's own."""
        return handler(self._model.__pydantic_core_schema__)


def document_hyperparameters(hyperparameters_type: type[Hyperparameters]) -> type[BaseModel]:
    """Return a model of what a user may write: every field takes its own type or "auto"."""
    fields: dict[str, Any] = {name: _or_auto(field) for name, field in hyperparameters_type.model_fields.items()}
    return create_model(
        f"{hyperparameters_type.__name__}Input",
        __config__=ConfigDict(extra="forbid", protected_namespaces=()),
        __doc__=hyperparameters_type.__doc__,
        **fields,
    )


def _or_auto(field: FieldInfo) -> tuple[Any, Any]:
    value = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    return value | Literal["auto"], Field(AUTO, description=field.description)


def _document_methods() -> type[BaseModel]:
    config = ConfigDict(extra="forbid", protected_namespaces=())
    blocks: dict[str, Any] = {}
    for method in METHODS.values():
        parts: dict[str, Any] = {
            "hyperparameters": (document_hyperparameters(method.hyperparameters_type) | None, None),
            "adapter": (LoraSettings | None, None),
            "evaluation": (EvaluationSettings | None, None),
            "saliency": (SaliencySettings | None, None),
            "n_gpus": (int | None, Field(None, ge=1, description="Devices that train together; 1 when absent.")),
            "rollout": (RolloutSettings | None, None),
            "rationalization": (RationalizationSettings | None, None),
            "grader": (RowGrader | None, None),
            "pass_threshold": (float | None, None),
            "judge": (Judge | None, None),
            "mixture": (MixtureSettings | None, None),
        }
        block = create_model(f"{type(method).__name__}Settings", __config__=config, **parts)
        blocks[method.name] = (block | None, Field(None, description=method.summary))
    kinds: Any = Literal[tuple(METHODS)]
    return create_model("MethodSettings", __config__=config, type=(kinds, ...), **blocks)


MethodDocument = _document_methods()

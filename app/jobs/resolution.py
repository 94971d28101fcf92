"""From what a user wrote to what will be computed: the method's settings with every "auto" resolved."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from app.core.errors import InvalidRequestError
from app.core.field_paths import invalid_request
from app.db.base import Json
from app.jobs.auto import note_choices
from app.jobs.schemas import JobCreate, MethodSettings
from worker.training.methods import METHODS
from worker.training.methods.auto import AUTO, RunFacts
from worker.training.methods.base import Hyperparameters, Method
from worker.training.spec import BuildingSettings, EvaluationSettings, LoraSettings, SaliencySettings

DEFAULT_METHOD = "supervised"
_PROMPTS = "prompts"
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class RequestedMethod:
    """The method block of a request. ``place`` is where its hyperparameters stand, for error messages."""

    method: Method
    settings: MethodSettings
    place: str

    @property
    def block(self) -> str:
        """Path of the method's own block."""
        return f"method.{self.method.name}"


@dataclass(frozen=True, slots=True)
class ResolvedMethod:
    """A method with all of its settings."""

    name: str
    hyperparameters: Hyperparameters
    adapter: LoraSettings
    evaluation: EvaluationSettings
    auto: Json = field(default_factory=dict)
    building: BuildingSettings | None = None
    saliency: SaliencySettings = field(default_factory=SaliencySettings)
    n_gpus: int = 1

    @property
    def values(self) -> Json:
        """The hyperparameters; "auto" where it has to wait for the rows."""
        waiting = {name: AUTO for name, choice in self.auto.items() if choice["value"] == AUTO}
        return self.hyperparameters.model_dump(mode="json") | waiting

    def to_json(self) -> Json:
        """Return the block as a job shows it."""
        settings = {
            "hyperparameters": self.values,
            "adapter": self.adapter.model_dump(mode="json"),
            "evaluation": self.evaluation.model_dump(mode="json"),
            "saliency": self.saliency.model_dump(mode="json"),
            "n_gpus": self.n_gpus,
            **(self.building.model_dump(mode="json") if self.building else {}),
        }
        return {"type": self.name, self.name: settings}


def read_method(body: JobCreate) -> RequestedMethod:
    """Return the method that ``body`` asks for, its settings checked but for the hyperparameters' values.

    Raises:
        InvalidRequestError: The method is unknown, or its block holds what does not belong there.
    """
    written = {"type": DEFAULT_METHOD} if body.method is None else body.method
    method = _find_method(written)
    _refuse_other_blocks(written, method)
    block = written.get(method.name)
    settings = _validate(MethodSettings, {} if block is None else block, place=f"method.{method.name}")
    settings = _fold_prompts(method, settings)
    if body.hyperparameters is not None:
        return _take_top_level(body.hyperparameters, method, settings)
    return RequestedMethod(method, settings, f"method.{method.name}.hyperparameters")


def resolve_method(requested: RequestedMethod, facts: RunFacts, *, is_validated: bool) -> ResolvedMethod:
    """Return complete settings for a run with these facts; ``is_validated`` tells whether it has a validation file.

    Raises:
        InvalidRequestError: A value is unknown, out of range or impossible for this base model; ``param`` is its path.
    """
    method, settings, place = requested.method, requested.settings, requested.place
    try:
        hyperparameters = method.hyperparameters_type.resolve(settings.hyperparameters, facts)
    except ValidationError as error:
        raise invalid_request(error, method.hyperparameters_type, prefix=place) from error
    if hyperparameters.max_seq_length > facts.context_length:
        raise InvalidRequestError(
            f"{place}.max_seq_length is {hyperparameters.max_seq_length} tokens, "
            f"but the base model reads at most {facts.context_length}.",
            param=f"{place}.max_seq_length",
            code="invalid_value",
        )
    if not is_validated:
        _refuse_idle_settings(hyperparameters, requested)
    adapter = method.adapter(hyperparameters)
    if settings.adapter is not None:
        adapter = adapter.model_copy(update=settings.adapter.model_dump(exclude_unset=True))
    choices = method.hyperparameters_type.explain_auto(settings.hyperparameters, facts)
    auto = note_choices(choices, rows_are_final=facts.rows_are_final)
    return ResolvedMethod(
        method.name,
        hyperparameters,
        adapter,
        settings.evaluation or EvaluationSettings(),
        auto,
        saliency=settings.saliency or SaliencySettings(),
        n_gpus=settings.n_gpus or 1,
    )


def _find_method(written: Mapping[str, Any]) -> Method:
    if "type" not in written:
        raise InvalidRequestError(
            f"Missing required parameter: 'method.type'. Known methods: {_known()}.",
            param="method.type",
            code="missing_required_parameter",
        )
    kind = written["type"]
    if not isinstance(kind, str) or kind not in METHODS:
        raise InvalidRequestError(
            f"The method {kind!r} is not offered. Known methods: {_known()}.",
            param="method.type",
            code="unknown_method",
        )
    return METHODS[kind]


def _known() -> str:
    return ", ".join(METHODS)


def _refuse_other_blocks(written: Mapping[str, Any], method: Method) -> None:
    for name, block in written.items():
        if name in {"type", method.name} or (name in METHODS and block is None):
            continue
        param = f"method.{name}"
        if name in METHODS:
            message = f"'{param}' does not belong to a job whose method.type is '{method.name}'."
            raise InvalidRequestError(message, param=param, code="invalid_value")
        near = difflib.get_close_matches(name, ("type", method.name), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise InvalidRequestError(f"Unknown parameter: '{param}'.{hint}", param=param, code="unknown_parameter")


def _validate(model: type[Model], value: Any, *, place: str) -> Model:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid_request(error, model, prefix=place) from error


def _take_top_level(hyperparameters: Mapping[str, Any], method: Method, settings: MethodSettings) -> RequestedMethod:
    if method.name != DEFAULT_METHOD:
        raise InvalidRequestError(
            f"The top-level 'hyperparameters' are those of '{DEFAULT_METHOD}'; "
            f"write them into 'method.{method.name}.hyperparameters'.",
            param="hyperparameters",
            code="invalid_value",
        )
    if settings.hyperparameters and settings.hyperparameters != hyperparameters:
        raise InvalidRequestError(
            f"'hyperparameters' and 'method.{method.name}.hyperparameters' differ; send the latter only.",
            param="hyperparameters",
            code="invalid_value",
        )
    mirrored = settings.model_copy(update={"hyperparameters": dict(hyperparameters)})
    return RequestedMethod(method, mirrored, "hyperparameters")


def _fold_prompts(method: Method, settings: MethodSettings) -> MethodSettings:
    """Take a prompt set that stands beside the hyperparameters, where the API also allows it, in among them."""
    if settings.prompts is None:
        return settings
    param = f"method.{method.name}.{_PROMPTS}"
    if _PROMPTS not in method.hyperparameters_type.model_fields:
        raise InvalidRequestError(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")
    inside = settings.hyperparameters.get(_PROMPTS, settings.prompts)
    if inside != settings.prompts:
        message = f"'{param}' and 'method.{method.name}.hyperparameters.{_PROMPTS}' contradict each other."
        raise InvalidRequestError(message, param=param, code="invalid_value")
    return settings.model_copy(
        update={"hyperparameters": {**settings.hyperparameters, _PROMPTS: settings.prompts}, _PROMPTS: None}
    )


def _refuse_idle_settings(hyperparameters: Hyperparameters, requested: RequestedMethod) -> None:
    """Refuse what would silently do nothing in a job without a validation file."""
    idle = []
    if hyperparameters.early_stopping_patience:
        idle.append(f"{requested.place}.early_stopping_patience")
    if requested.settings.evaluation is not None:
        idle.append(f"{requested.block}.evaluation")
    for param in idle:
        raise InvalidRequestError(f"'{param}' needs a validation_file.", param=param, code="missing_required_parameter")

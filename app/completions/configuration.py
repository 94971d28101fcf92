"""The endpoints of this installation, read once from a TOML file of the operator.

    [judge]
    base_url = "https://llm.example.com/v1"
    api_key_env = "JUDGE_API_KEY"     # or api_key = "..."
    model = "large-model"

Jobs name an endpoint, never an address or a key; neither enters a job, an event, a log or a trainer process.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from app.core.settings import Settings

ANY_MODEL = "*"
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Endpoint(BaseModel):
    """An OpenAI-compatible server and how much of it a job may use. Durations are seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str = Field(pattern=r"^https?://[^\s]+$", description="Address up to and including `/v1`.")
    api_key: SecretStr | None = Field(None, description="Sent as a bearer token.")
    api_key_env: str | None = Field(None, description="Variable that holds the key, instead of `api_key`.")
    model: str | None = Field(None, min_length=1, description="Asked when a job names the endpoint alone.")
    models: tuple[str, ...] = Field((), description="Further models that jobs may name; `*` stands for any.")
    concurrency: int = Field(8, ge=1, le=256, description="Requests of one job in flight.")
    timeout_seconds: float = Field(60.0, gt=0, description="Longest time for one request, first byte to last.")
    attempts: int = Field(4, ge=1, le=10, description="Requests spent on one question before it counts as failed.")
    max_failures: int = Field(8, ge=1, description="Failed questions in a row after which a job asks no more.")
    max_requests: int = Field(20_000, ge=0, description="Requests of one job, failed ones included.")
    max_tokens: int = Field(10_000_000, ge=0, description="Prompt and answer tokens of one job.")

    @model_validator(mode="after")
    def _require_some_model(self) -> Self:
        if self.model is None and not self.models:
            raise ValueError("needs a model, or models that jobs may name")
        return self

    @model_validator(mode="after")
    def _require_one_key(self) -> Self:
        if self.api_key is not None and self.api_key_env is not None:
            raise ValueError("api_key and api_key_env exclude each other")
        if self.api_key_env is not None and not os.environ.get(self.api_key_env):
            raise ValueError(f"the variable {self.api_key_env} is not set")
        return self

    @property
    def key(self) -> str | None:
        """The secret to send."""
        if self.api_key_env is not None:
            return os.environ[self.api_key_env]
        return self.api_key.get_secret_value() if self.api_key else None

    @property
    def known_models(self) -> tuple[str, ...]:
        """Every model that a job may name."""
        return tuple(dict.fromkeys((*filter(None, (self.model,)), *self.models)))


_ENDPOINTS = TypeAdapter(dict[_Name, Endpoint])


@dataclass(frozen=True, slots=True)
class Target:
    """A model behind an endpoint."""

    name: str
    endpoint: Endpoint
    model: str


class UnknownEndpointError(LookupError):
    """No endpoint has this name, or it does not offer the model; the message says what there is."""


class Endpoints:
    """The endpoints by name."""

    def __init__(self, endpoints: Mapping[str, Endpoint] | None = None) -> None:
        self._endpoints = dict(endpoints or {})

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return what ``settings.endpoints_file`` describes; without the setting there are none.

        Raises:
            ValueError: The file cannot be read or is wrong; the message says where, and repeats no value.
        """
        return cls() if settings.endpoints_file is None else cls(_read(settings.endpoints_file))

    def items(self) -> list[tuple[str, Endpoint]]:
        """Return names and endpoints, in the order of the file."""
        return list(self._endpoints.items())

    def find(self, model: str) -> Target:
        """Return what ``ENDPOINT`` or ``ENDPOINT/MODEL`` means.

        Raises:
            UnknownEndpointError: It means nothing here.
        """
        name, _, wanted = model.partition("/")
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            known = ", ".join(self._endpoints) or "none is set up"
            raise UnknownEndpointError(f"There is no endpoint '{name}'. Endpoints: {known}.")
        offered = ", ".join(endpoint.known_models)
        if not wanted and endpoint.model is None:
            raise UnknownEndpointError(f"The endpoint '{name}' has no model of its own; name one: {offered}.")
        if wanted and wanted not in endpoint.known_models and ANY_MODEL not in endpoint.models:
            raise UnknownEndpointError(
                f"The endpoint '{name}' does not offer the model '{wanted}'; it offers: {offered}."
            )
        return Target(name, endpoint, wanted or endpoint.model or "")


def _read(path: Path) -> dict[str, Endpoint]:
    try:
        return _ENDPOINTS.validate_python(tomllib.loads(path.read_text()))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"NLFT_ENDPOINTS_FILE: {path} cannot be read as TOML: {type(error).__name__}") from error
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_input=False))
        # The cause would carry the key that stands beside the fault.
        raise ValueError(f"NLFT_ENDPOINTS_FILE: {'; '.join(faults)}") from None

"""The metadata filter of the job list, in the bracket notation of the OpenAI SDKs: ``metadata[key]=value``."""

import re
from dataclasses import dataclass, field
from typing import Any

from app.core.errors import InvalidRequestError
from app.jobs.schemas import JobQuery

_PAIR = re.compile(r"metadata\[(.*)\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class MetadataFilter:
    """Pairs that a job must all have; or, ``is_absent``, no metadata at all."""

    pairs: dict[str, str] = field(default_factory=dict)
    is_absent: bool = False


def read_filter(query: JobQuery) -> MetadataFilter:
    """Return the filter that a query asks for.

    Raises:
        InvalidRequestError: A parameter is unknown, or a key is given twice or beside ``metadata=null``.
    """
    extra = query.model_extra or {}
    pairs = {_read_key(name): _read_value(name, value) for name, value in extra.items()}
    is_absent = query.metadata == "null"
    if pairs and is_absent:
        message = "'metadata=null' asks for jobs without metadata; it cannot stand beside a metadata pair."
        raise InvalidRequestError(message, param="metadata", code="invalid_value")
    return MetadataFilter(pairs, is_absent)


def _read_key(name: str) -> str:
    found = _PAIR.fullmatch(name)
    if found is None:
        hint = " Write 'metadata[key]=value'." if name.startswith("metadata") else ""
        raise InvalidRequestError(f"Unknown parameter: '{name}'.{hint}", param=name, code="unknown_parameter")
    return found[1]


def _read_value(name: str, value: Any) -> str:
    if not isinstance(value, str) or "\x00" in name + value:
        message = f"'{name}' must be given once, as text without the character U+0000."
        raise InvalidRequestError(message, param="metadata", code="invalid_value")
    return value

"""Validation errors in the caller's words: the field's path, the fault, and the nearest known name of a typo."""

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from app.core.errors import InvalidRequestError

_MISSING = ("missing", "union_tag_not_found")
_CODES = {"extra_forbidden": "unknown_parameter", **dict.fromkeys(_MISSING, "missing_required_parameter")}
_SHOWN = 5
_SHOWN_VALUE = 60


def invalid_request(error: ValidationError, model: Any, *, prefix: str = "") -> InvalidRequestError:
    """Return the 400 for what pydantic found in a value of type ``model`` that sits at ``prefix`` in the request."""
    return describe_faults(error.errors(include_url=False), model, prefix=prefix)


def describe_faults(faults: Sequence[Mapping[str, Any]], model: Any, *, prefix: str = "") -> InvalidRequestError:
    """Return one error for pydantic ``faults``: ``param`` is the first one's path, the message tells the first five."""
    told: dict[str, tuple[str, str]] = {}
    for fault in faults:
        path, known = _resolve(fault, model)
        if fault["type"].startswith("union_tag_"):
            path = ".".join(filter(None, (path, fault["ctx"]["discriminator"].strip("'"))))
        place = ".".join(part for part in (prefix, path) if part)
        told.setdefault(place, (_sentence(place, fault, known), _CODES.get(fault["type"], "invalid_value")))
    first = next(iter(told))
    sentences = [sentence for sentence, _ in told.values()]
    more = f" (and {len(sentences) - _SHOWN} more)" if len(sentences) > _SHOWN else ""
    return InvalidRequestError(" ".join(sentences[:_SHOWN]) + more, param=first or None, code=told[first][1])


def _sentence(place: str, fault: Mapping[str, Any], known: Iterable[str]) -> str:
    if fault["type"] in _MISSING:
        return f"Missing required parameter: '{place}'."
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(fault["loc"][-1]), list(known), n=1)
        return f"Unknown parameter: '{place}'." + (f" Did you mean '{near[0]}'?" if near else "")
    value = fault.get("input")
    shown = f" (got {value!r})" if isinstance(value, str | int | float) and len(repr(value)) <= _SHOWN_VALUE else ""
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"Invalid '{place}': {message}{shown}." if place else f"Invalid request: {message}."


def _resolve(fault: Mapping[str, Any], model: Any) -> tuple[str, list[str]]:
    """Return the dotted path of a fault, without pydantic's names of union members, and the names known there."""
    path, candidates = "", _members(model)
    location = fault["loc"]
    for index, part in enumerate(location):
        models = [member for member in candidates if isinstance(member, type) and issubclass(member, BaseModel)]
        fields = [found.model_fields[part].annotation for found in models if part in found.model_fields]
        if isinstance(part, int):
            path += f"[{part}]"
        elif fields or any(get_origin(member) is dict for member in candidates) or Any in candidates:
            path = f"{path}.{part}" if path else part
        elif index == len(location) - 1 and fault["type"] == "extra_forbidden":
            return f"{path}.{part}" if path else part, [name for found in models for name in found.model_fields]
        else:
            continue
        nested = fields or [argument for member in candidates for argument in get_args(member)[-1:]]
        candidates = [member for annotation in nested for member in _members(annotation)]
    return path, []


def _members(annotation: Any) -> list[Any]:
    """Return the alternatives of a union, with ``Annotated`` taken off."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for argument in get_args(annotation) for member in _members(argument)]
    return [annotation]

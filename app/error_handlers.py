"""Every failure becomes the four-key envelope: our own errors, validation, routing, a database that is away."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from obstore.exceptions import BaseError as StorageError
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from app.core.errors import InvalidRequestError, ServiceError, UnavailableError
from app.core.field_paths import describe_faults
from app.core.logging import get_logger

_LOG = get_logger(__name__)
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
_CODES = {404: "unknown_url", 405: "method_not_allowed", 408: "request_timeout", 413: "payload_too_large"}


def add_error_handlers(app: FastAPI) -> None:
    """Install the handlers. What they do not name reaches ``app.middleware`` and becomes a 500."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)
    for kind in (OperationalError, InterfaceError, PoolTimeoutError):
        app.add_exception_handler(kind, _database_error)
    app.add_exception_handler(DataError, _unstorable_value)
    app.add_exception_handler(StorageError, _storage_error)


def _answer(error: ServiceError) -> JSONResponse:
    return JSONResponse(error.envelope(), status_code=error.status_code, headers=error.headers)


async def _service_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    return _answer(error)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return _answer(_describe(request, error.errors()))


async def _http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status, message = error.status_code, str(error.detail)
    if status == 404:
        message = f"Unknown request URL: {request.method} {request.url.path}."
    if status == 405:
        message = f"{request.method} is not supported on {request.url.path}."
    body = {
        "message": message,
        "type": _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        "param": None,
        "code": _CODES.get(status),
    }
    return JSONResponse({"error": body}, status_code=status, headers=error.headers)


async def _database_error(_request: Request, error: Exception) -> JSONResponse:
    cause = error.orig if isinstance(error, DBAPIError) else error
    _LOG.warning("database unavailable", error=type(cause).__name__, detail=str(cause).split("\n")[0])
    return _answer(UnavailableError("The database is not available right now; try again shortly."))


async def _unstorable_value(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DataError)
    _LOG.info("value refused by the database", error=type(error.orig).__name__)
    return _answer(
        InvalidRequestError(
            "A value in the request cannot be stored: it holds a NUL character or a number out of range.",
            code="invalid_value",
        )
    )


async def _storage_error(_request: Request, error: Exception) -> JSONResponse:
    _LOG.error("storage failed", error=type(error).__name__, detail=str(error).split("\n")[0])
    return _answer(UnavailableError("The file storage is not available right now; try again shortly."))


def _describe(request: Request, faults: Sequence[Any]) -> InvalidRequestError:
    first = faults[0]
    if first["type"] == "json_invalid":
        return InvalidRequestError("The request body is not valid JSON.", code="invalid_json")
    if first["loc"] == ("body",):
        return InvalidRequestError(
            "The request body must be a JSON object, sent with 'Content-Type: application/json'.", code="invalid_json"
        )
    place = first["loc"][0]
    route = request.scope["route"]
    inside = [{**fault, "loc": tuple(fault["loc"][1:])} for fault in faults if fault["loc"][0] == place]
    if place == "body" and route.body_field is not None:
        return describe_faults(inside, route.body_field.field_info.annotation)
    query_models = [field.field_info.annotation for field in route.dependant.query_params]
    return describe_faults(inside, query_models[0] if len(query_models) == 1 else None)

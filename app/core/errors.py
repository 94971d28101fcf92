"""Errors the API answers with: one envelope, one tree.

    ServiceError                500 server_error
    ├── InvalidRequestError     400 invalid_request_error   the caller can mend it; ``param`` names the place
    ├── AuthenticationError     401 authentication_error
    ├── PermissionDeniedError   403 permission_error
    ├── NotFoundError           404 not_found_error         unknown and foreign ids alike
    ├── ConflictError           409 conflict_error          sent with ``x-should-retry: false``
    ├── PayloadTooLargeError    413 invalid_request_error
    ├── RateLimitError          429 rate_limit_error        sent with ``retry-after``
    └── UnavailableError        503 server_error            sent with ``retry-after``

To add one: subclass the nearest, set ``code``; the handler in ``app.error_handlers`` needs no change.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class ServiceError(Exception):
    """Base of every error that becomes an HTTP answer.

    Args:
        message: One sentence for the caller that names the offending value and the remedy.
        param: Field path (``method.nlft.hyperparameters.n_epochs``) or file place (``line 17: messages[0].role``).
        code: Machine-readable reason; defaults to the class's own.
        details: Further members of the error body, for causes that need more than a sentence.
    """

    status_code: ClassVar[int] = 500
    error_type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None
    headers: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.details = dict(details or {})

    def envelope(self) -> dict[str, Any]:
        """Return the body of the HTTP answer."""
        body = {"message": self.message, "type": self.error_type, "param": self.param, "code": self.code}
        return {"error": {**body, **self.details}}


class InvalidRequestError(ServiceError):
    """The request cannot be honoured as written."""

    status_code = 400
    error_type = "invalid_request_error"


class AuthenticationError(ServiceError):
    """No key, an unknown key, or a revoked or expired one."""

    status_code = 401
    error_type = "authentication_error"
    default_code = "invalid_api_key"
    headers: ClassVar[dict[str, str]] = {"www-authenticate": "Bearer"}


class PermissionDeniedError(ServiceError):
    """The key is good but lacks the scope that the route declares."""

    status_code = 403
    error_type = "permission_error"
    default_code = "insufficient_scope"


class NotFoundError(ServiceError):
    """No such object in the caller's project."""

    status_code = 404
    error_type = "not_found_error"
    default_code = "not_found"


class ConflictError(ServiceError):
    """The object's state forbids the change; trying again will not help."""

    status_code = 409
    error_type = "conflict_error"
    default_code = "conflict"
    headers: ClassVar[dict[str, str]] = {"x-should-retry": "false"}


class PayloadTooLargeError(ServiceError):
    """The body exceeds the limit that the message names, in bytes."""

    status_code = 413
    error_type = "invalid_request_error"
    default_code = "payload_too_large"


class RateLimitError(ServiceError):
    """Too many requests or queued jobs for now."""

    status_code = 429
    error_type = "rate_limit_error"
    default_code = "rate_limit_exceeded"
    headers: ClassVar[dict[str, str]] = {"retry-after": "5"}


class UnavailableError(ServiceError):
    """A dependency is down; the same request will work later."""

    status_code = 503
    error_type = "server_error"
    default_code = "service_unavailable"
    headers: ClassVar[dict[str, str]] = {"retry-after": "2"}

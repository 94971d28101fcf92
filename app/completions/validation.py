"""Names of endpoints in what callers write, checked while they can still mend them."""

from app.completions.configuration import Endpoints, UnknownEndpointError
from app.core.errors import InvalidRequestError


def require_endpoint(endpoints: Endpoints, model: str, *, param: str) -> None:
    """Refuse the name of an endpoint, or of a model behind one, that the operator has not set up.

    Raises:
        InvalidRequestError: There is none of this name; ``param`` is where the caller wrote it.
    """
    try:
        endpoints.find(model)
    except UnknownEndpointError as error:
        raise InvalidRequestError(str(error), param=param, code="unknown_endpoint") from error

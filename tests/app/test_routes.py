"""Rules that hold for every route of the service, including those that are added later."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from app.dependencies import RequireScope
from app.router import ROUTERS

OPEN = {"/livez", "/readyz"}
ROUTES = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]


def methods_of(route: APIRoute) -> list[str]:
    return sorted(route.methods or ())


def scopes_of(dependant: Dependant) -> Iterator[str]:
    if isinstance(dependant.call, RequireScope):
        yield dependant.call.scope
    for nested in dependant.dependencies:
        yield from scopes_of(nested)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{methods_of(route)[0]} {route.path}")
def test_a_route_declares_exactly_one_scope(route: APIRoute) -> None:
    assert len(list(scopes_of(route.dependant))) == (0 if route.path in OPEN else 1)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{methods_of(route)[0]} {route.path}")
def test_reading_needs_a_reading_scope_and_writing_a_writing_one(route: APIRoute) -> None:
    (scope,) = list(scopes_of(route.dependant)) or ["open"]
    if scope not in {"open", "admin"}:
        assert scope.endswith(":read") == (methods_of(route) in (["GET"], ["HEAD"]))


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{methods_of(route)[0]} {route.path}")
def test_a_route_explains_itself(route: APIRoute) -> None:
    assert route.description


def test_every_route_that_wants_a_key_refuses_a_request_without_one(api_app: FastAPI) -> None:
    client = TestClient(api_app, raise_server_exceptions=False)
    for route in ROUTES:
        for method in methods_of(route):
            if route.path not in OPEN:
                assert client.request(method, route.path).status_code == 401, route.path

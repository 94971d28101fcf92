"""``docs/api.md`` lists the routes that exist, and no others."""

import re

from fastapi.routing import APIRoute

from app.router import ROUTERS
from tests.architecture.tree import ROOT

ROW = re.compile(r"^\| `(GET|POST|DELETE) (/[^` ]*)` \|", re.MULTILINE)


def test_documented_routes_are_those_of_the_service() -> None:
    documented = ROW.findall((ROOT / "docs" / "api.md").read_text())
    served = {
        (verb, re.sub(r":path\}", "}", route.path))
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute)
        for verb in (route.methods or set()) - {"HEAD"}
    }
    assert set(documented) == served
    assert len(documented) == len(served), "no route is listed twice"

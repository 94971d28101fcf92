"""The opponent: answers that need no thought, under the very server that serves the API.

``/plain/N`` answers N bytes of JSON from a bare ASGI callable, after reading the body, whatever its size.
``/framework/N`` does the same from a FastAPI route, to show what the framework alone costs.
"""

import json
import socket
import sys

import uvicorn
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from app.cli.serve import SERVER_OPTIONS
from app.core.memory import keep_freed_memory

_EMPTY = len('{"fill":""}')


def constant_body(size: int) -> bytes:
    """Return a JSON object of exactly ``size`` bytes, 11 at least."""
    return json.dumps({"fill": "x" * (size - _EMPTY)}, separators=(",", ":")).encode()


class ConstantApp:
    """The ASGI callable; bodies are built once a size."""

    def __init__(self) -> None:
        self._framework = _build_framework()
        self._bodies: dict[str, bytes] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        path = scope.get("path", "")
        if scope["type"] != "http" or path.startswith("/framework/"):
            await self._framework(scope, receive, send)
            return
        while (await receive()).get("more_body", False):
            pass
        body = self._bodies.get(path)
        if body is None:
            body = self._bodies[path] = constant_body(int(path.rpartition("/")[2]))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _build_framework() -> FastAPI:
    app = FastAPI()
    bodies: dict[int, dict[str, str]] = {}

    async def answer(size: int) -> dict[str, str]:
        if size not in bodies:
            bodies[size] = json.loads(constant_body(size))
        return bodies[size]

    app.get("/framework/{size}")(answer)
    return app


def main(descriptor: int) -> None:
    """Serve on an inherited listening socket."""
    keep_freed_memory()  # as the API does
    config = uvicorn.Config(ConstantApp(), **SERVER_OPTIONS)
    uvicorn.Server(config).run([socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    main(int(sys.argv[1]))

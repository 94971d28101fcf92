"""``nlft serve``: one API process, as ``nlft up`` and the container image run it."""

import gc
import socket
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

import typer
import uvicorn

from app.core.memory import keep_freed_memory
from app.http_protocol import LargeReadProtocol

_GRACE_SECONDS = 10
_GC_THRESHOLD = 10_000  # requests leave few cycles behind; to look for them each 700 objects is a twentieth of the work
SERVER_OPTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "http": LargeReadProtocol,
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "timeout_graceful_shutdown": _GRACE_SECONDS,
    }
)
"""What uvicorn is configured with wherever the API is served; address and application come on top."""


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    fd: Annotated[int | None, typer.Option(hidden=True, help="Listening socket inherited from the parent.")] = None,
) -> None:
    """Serve the HTTP API in the foreground; settings come from the environment."""
    config = uvicorn.Config("app.main:create_app", factory=True, host=host, port=port, **SERVER_OPTIONS)
    keep_freed_memory()
    config.load()
    gc.freeze()  # to look through what was built for good takes a tenth of a second, again and again
    gc.set_threshold(_GC_THRESHOLD)
    inherited = None if fd is None else [socket.socket(fileno=fd)]
    ApiServer(config).run(inherited)


class ApiServer(uvicorn.Server):
    """Ends the event streams before it waits for requests that are under way: else they would use the grace up."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop serving."""
        self.config.loaded_app.state.event_streams.end()
        await super().shutdown(sockets)


if __name__ == "__main__":
    typer.run(serve)

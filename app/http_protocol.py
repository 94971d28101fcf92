"""How requests are taken off their sockets: uvicorn's HTTP protocol, but large bodies come in large pieces.

A read goes into a buffer that all connections share, and what it brought of a body is copied once. See
``docs/adr/0018-large-reads.md``.
"""

import asyncio
import threading
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_READ_BYTES = 512 << 10


class _ReadBuffer(threading.local):
    """One buffer a thread, and so one an event loop: what a read brought is used up before the next read."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(_READ_BYTES))


_BUFFER = _ReadBuffer()


class LargeReadProtocol(asyncio.BufferedProtocol):
    """A connection; to be given to uvicorn as ``http``. It reads, and uvicorn's own protocol does everything else."""

    def __init__(self, **options: Any) -> None:
        self._http = _BodyProtocol(**options)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._http.connection_made(transport)  # type: ignore[arg-type]  # uvicorn narrows the type, too

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._http.connection_lost(exc)

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Return where the next read goes."""
        return _BUFFER.view

    def buffer_updated(self, nbytes: int) -> None:
        """Take what the read brought."""
        self._http.data_received(_BUFFER.view[:nbytes])  # type: ignore[arg-type]  # the parser takes any buffer

    def eof_received(self) -> None:
        """Leave it to the transport to close."""
        self._http.eof_received()

    def pause_writing(self) -> None:
        """Hold answers back."""
        self._http.pause_writing()

    def resume_writing(self) -> None:
        """Go on answering."""
        self._http.resume_writing()


class _BodyProtocol(HttpToolsProtocol):
    def on_body(self, body: bytes) -> None:
        """Take a piece of the body; where none waits for the application, this one does as it is, without copies."""
        cycle = self.cycle
        if cycle is None or cycle.body or cycle.response_complete or self.parser.should_upgrade():
            if cycle is not None and isinstance(cycle.body, bytes):
                cycle.body = bytearray(cycle.body)  # which grows in place: there may be thousands of tiny pieces
            super().on_body(body)
            return
        cycle.body = body  # type: ignore[assignment]  # what is handed out is bytes(cycle.body)
        if len(body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

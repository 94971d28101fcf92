"""Requests over real sockets: whatever the body and however it is cut, the application gets uvicorn's behaviour."""

import asyncio
import hashlib
import random
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPResponse

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.server import ServerState

from app.cli.serve import SERVER_OPTIONS
from app.http_protocol import LargeReadProtocol

SOON = 20.0
LARGE = random.Random(1).randbytes(3_000_000)


async def digest(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the digest of the body, or at ``/unread`` a word before any of it was read."""
    if scope["type"] != "http":
        return
    seen, more = hashlib.sha256(), scope["path"] != "/unread"
    while more:
        message = await receive()
        assert type(message["body"]) is bytes
        seen.update(message["body"])
        more = message["more_body"]
    answer = b"unread" if scope["path"] == "/unread" else seen.hexdigest().encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})


@pytest.fixture(params=["uvloop", "asyncio"], scope="module")
def address(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(digest, loop=request.param, lifespan="off", **SERVER_OPTIONS))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield listener.getsockname()
        server.should_exit = True
        thread.join(SOON)
        assert not thread.is_alive()


def head(length: int | None, path: str = "/") -> bytes:
    kind = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    return f"POST {path} HTTP/1.1\r\nhost: test\r\n{kind}\r\n\r\n".encode()


def chunked(body: bytes, step: int) -> bytes:
    pieces = (body[start : start + step] for start in range(0, len(body), step))
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def answer_of(connection: socket.socket) -> bytes:
    answer = HTTPResponse(connection)
    answer.begin()
    assert answer.status == 200
    return answer.read()


def digest_of(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


@pytest.mark.parametrize("size", [0, 1, 70_000, len(LARGE)])
def test_a_body_of_known_length_arrives_unchanged(address: tuple[str, int], size: int) -> None:
    with socket.create_connection(address, SOON) as connection:
        for _ in range(2):  # the connection serves on
            connection.sendall(head(size) + LARGE[:size])
            assert answer_of(connection) == digest_of(LARGE[:size])


@pytest.mark.parametrize(("size", "step"), [(50_000, 7), (len(LARGE), 100_000), (len(LARGE), 2_000_000)])
def test_a_chunked_body_arrives_unchanged(address: tuple[str, int], size: int, step: int) -> None:
    with socket.create_connection(address, SOON) as connection:
        connection.sendall(head(None) + chunked(LARGE[:size], step))
        assert answer_of(connection) == digest_of(LARGE[:size])


def test_a_body_that_trickles_in_arrives_unchanged(address: tuple[str, int]) -> None:
    with socket.create_connection(address, SOON) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head(200) + LARGE[:200]:
            connection.sendall(bytes([byte]))
        assert answer_of(connection) == digest_of(LARGE[:200])


def test_requests_sent_together_are_answered_in_turn(address: tuple[str, int]) -> None:
    bodies = [LARGE[:100], b"", LARGE[:200_000]]
    with socket.create_connection(address, SOON) as connection:
        connection.sendall(b"".join(head(len(body)) + body for body in bodies))
        received = connection.makefile("rb")
        for body in bodies:
            lines = list(iter(received.readline, b"\r\n"))
            assert lines[0].startswith(b"HTTP/1.1 200")
            assert received.read(64) == digest_of(body)


def test_a_body_that_nobody_reads_does_not_reach_the_next_request(address: tuple[str, int]) -> None:
    with socket.create_connection(address, SOON) as connection:
        connection.sendall(head(len(LARGE), "/unread") + LARGE)
        assert answer_of(connection) == b"unread"
        connection.sendall(head(5) + b"hello")
        assert answer_of(connection) == digest_of(b"hello")


class Transport(asyncio.Transport):
    """Notes whether reading is paused; what is written goes nowhere."""

    is_paused = False

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("sizes", [[60_000], [60_000, 60_000], [200_000]])
def test_reading_pauses_while_much_waits_for_the_application(sizes: list[int]) -> None:
    body = LARGE[: sum(sizes)]

    async def run() -> None:
        taken: asyncio.Queue[bytes] = asyncio.Queue()

        async def take(_scope: Scope, receive: Receive, _send: Send) -> None:
            while (message := await receive())["type"] != "http.disconnect":
                taken.put_nowait(message["body"])

        config = uvicorn.Config(take, lifespan="off", **SERVER_OPTIONS)
        config.load()
        protocol = LargeReadProtocol(config=config, server_state=ServerState(), app_state={})
        transport = Transport()
        protocol.connection_made(transport)
        start = 0
        for data in (head(len(body) + 1), *(body[:size] for size in sizes)):
            protocol.get_buffer(-1)[: len(data)] = data
            protocol.buffer_updated(len(data))
        assert transport.is_paused == (len(body) > HIGH_WATER_LIMIT)
        while start < len(body):
            start += len(await taken.get())
        assert not transport.is_paused
        protocol.connection_lost(None)

    asyncio.run(asyncio.wait_for(run(), SOON))

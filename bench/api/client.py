"""A load generator of raw keep-alive sockets: prebuilt requests out, as little parsing as possible in.

One process drives many connections through epoll, each with one request under way. It tells how busy it was itself,
so that a run whose client was the bottleneck is seen.
"""

import os
import selectors
import socket
import time
from dataclasses import dataclass, field

COUNTER = b"################"
"""Stands in a request where each one gets a number of its own, 16 hexadecimal digits."""
_CHUNK = 1 << 18
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length: "
SILENCE_SECONDS = 60.0

Address = tuple[str, int]


class UnexpectedAnswerError(RuntimeError):
    """The server answered another status than 200; carries the answer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one process sends.

    Attributes:
        address: Host and port.
        requests: Complete requests; connection i sends number i modulo their count, over and over.
        connections: Sockets held open, each with one request under way.
        seconds: When no further request is sent; those under way are finished.
        most: When no further request is sent, by count over all connections; None: no limit.
        first_number: What ``COUNTER`` counts from.
    """

    address: Address
    requests: tuple[bytes, ...]
    connections: int
    seconds: float
    most: int | None = None
    first_number: int = 0


@dataclass(slots=True)
class Outcome:
    """What one process saw: answers with status 200, seconds of wall and of its own CPU, latencies in seconds."""

    answers: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    latencies: list[float] = field(default_factory=list)


class Connection:
    """A socket with at most one request under way."""

    __slots__ = ("answer", "length", "request", "sent_at", "socket")

    def __init__(self, address: Address, request: bytes) -> None:
        self.socket = connect(address)
        self.request = request
        self.answer = b""
        self.length = 0
        self.sent_at = 0.0

    def send(self, number: int = 0) -> None:
        """Send the request, with ``number`` in place of its counter."""
        self.answer, self.length = b"", 0
        self.sent_at = time.perf_counter()
        request = self.request
        self.socket.sendall(request.replace(COUNTER, b"%016x" % number, 1) if COUNTER in request else request)

    def receive(self) -> bool:
        """Read what has come; return whether the answer is complete.

        Raises:
            UnexpectedAnswerError: It has another status than 200, or the server hung up.
        """
        data = self.socket.recv(_CHUNK)
        if not data:
            raise UnexpectedAnswerError("the server closed a connection")
        self.answer = self.answer + data if self.answer else data
        if not self.length:
            self.length = answer_length(self.answer)
        return bool(self.length) and len(self.answer) >= self.length


def connect(address: Address) -> socket.socket:
    """Return a connected socket without Nagle's delay."""
    connected = socket.create_connection(address, timeout=SILENCE_SECONDS)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


def answer_length(answer: bytes) -> int:
    """Return the length of head and body together; 0 while the head is incomplete.

    Raises:
        UnexpectedAnswerError: The status is not 200, or no length is declared.
    """
    end = answer.find(_HEAD_END)
    if end < 0:
        return 0
    place = answer.find(_LENGTH, 0, end)
    if answer[9:12] != b"200" or place < 0:
        raise UnexpectedAnswerError(answer[:2000].decode(errors="replace"))
    stop = answer.find(b"\r\n", place)
    return end + len(_HEAD_END) + int(answer[place + len(_LENGTH) : stop])


def drive(plan: Plan) -> Outcome:
    """Send until time or count is up; return what came of it.

    Raises:
        UnexpectedAnswerError: An answer was none that the plan counts on.
    """
    outcome = Outcome()
    connections = [
        Connection(plan.address, plan.requests[number % len(plan.requests)]) for number in range(plan.connections)
    ]
    with selectors.DefaultSelector() as selector:
        cpu, started = time.process_time(), time.perf_counter()
        sent = 0
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send(plan.first_number + sent)
            sent += 1
        while outcome.answers < sent:
            for key, _ in selector.select(SILENCE_SECONDS):
                connection = key.data
                if not connection.receive():
                    continue
                now = time.perf_counter()
                outcome.answers += 1
                outcome.latencies.append(now - connection.sent_at)
                if now - started < plan.seconds and (plan.most is None or sent < plan.most):
                    connection.send(plan.first_number + sent)
                    sent += 1
                else:
                    selector.unregister(connection.socket)  # the server may hang up now
        outcome.wall, outcome.cpu = time.perf_counter() - started, time.process_time() - cpu
    for connection in connections:
        connection.socket.close()
    return outcome


def upload(address: Address, head: bytes, parts: tuple[bytes, ...]) -> Outcome:
    """Send one large request from memory and read its answer; the outcome counts it as one answer.

    Raises:
        UnexpectedAnswerError: It was refused.
    """
    with connect(address) as server:
        cpu, started = time.process_time(), time.perf_counter()
        server.sendall(head)
        for part in parts:
            server.sendall(part)
        answer = b""
        while not (length := answer_length(answer)) or len(answer) < length:
            data = server.recv(_CHUNK)
            if not data:
                raise UnexpectedAnswerError("the server closed the connection")
            answer += data
        wall = time.perf_counter() - started
        return Outcome(1, wall, time.process_time() - cpu, [wall])


def pin(cores: frozenset[int]) -> None:
    """Keep this process, and what it starts, on these cores."""
    os.sched_setaffinity(0, cores)

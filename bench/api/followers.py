"""Idle followers: many clients that hold a connection each and ask for a job's events once in a while, or for a stream.

Those that ask, as ``nlft jobs watch`` does, do it with a period below the server's keep-alive limit of five seconds, so
the connection is held all the time.
"""

import heapq
import selectors
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench.api.client import Connection, Outcome, Plan, UnexpectedAnswerError, connect


@dataclass(frozen=True, slots=True)
class _Turn:
    due: float
    connection: Connection

    def __lt__(self, other: "_Turn") -> bool:
        return self.due < other.due


def follow(plan: Plan, period: float) -> Outcome:
    """Hold the plan's connections for its time, each asking once a ``period`` (seconds), evenly spread.

    Raises:
        UnexpectedAnswerError: An answer was none that the plan counts on.
    """
    outcome = Outcome()
    requests, count = plan.requests, plan.connections
    held = [Connection(plan.address, requests[number % len(requests)]) for number in range(count)]
    cpu, started = time.process_time(), time.perf_counter()
    turns = [_Turn(started + period * number / count, connection) for number, connection in enumerate(held)]
    with selectors.DefaultSelector() as selector:
        for connection in held:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        while (now := time.perf_counter()) < started + plan.seconds:
            while turns and turns[0].due <= now:
                heapq.heappop(turns).connection.send()
            wait = min(turns[0].due, started + plan.seconds) - now if turns else 0.1
            for key, _ in selector.select(max(0.0, wait)):
                connection = key.data
                if connection.receive():
                    outcome.answers += 1
                    outcome.latencies.append(time.perf_counter() - connection.sent_at)
                    heapq.heappush(turns, _Turn(connection.sent_at + period, connection))
    outcome.wall, outcome.cpu = time.perf_counter() - started, time.process_time() - cpu
    for connection in held:
        connection.socket.close()
    return outcome


@contextmanager
def holding_streams(plan: Plan) -> Iterator[None]:
    """Hold as many event streams open as the plan has connections; each has sent its job's first event.

    Raises:
        UnexpectedAnswerError: A stream was refused, or ended at once.
    """
    with ExitStack() as held:
        for number in range(plan.connections):
            stream = held.enter_context(connect(plan.address))
            stream.sendall(plan.requests[number % len(plan.requests)])
            answer = b""
            while b"\ndata: " not in answer:
                data = stream.recv(1 << 16)
                if not data or not answer.startswith(b"HTTP/1.1 200"[: len(answer)]):
                    raise UnexpectedAnswerError((answer + data).decode(errors="replace"))
                answer += data
        yield

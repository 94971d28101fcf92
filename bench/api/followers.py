"""Idle followers: many clients that hold a connection each and ask for a job's events once in a while.

They poll, as ``nlft jobs watch`` does, and use no event stream. With a period below the server's keep-alive
limit of five seconds the connection is held all the time.
"""

import heapq
import selectors
import time
from dataclasses import dataclass

from bench.api.client import Connection, Outcome, Plan


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

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.api import requests
from bench.api.client import COUNTER, Address, Plan, UnexpectedAnswerError, answer_length, drive
from bench.api.constant import constant_body
from bench.api.followers import follow
from worker.training.data.reader import RowReader

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@contextmanager
def peer(answer: bytes) -> Iterator[tuple[Address, list[bytes]]]:
    """Serve connections whose requests have no body; yield the address and what arrives."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=converse, args=(connection,), daemon=True).start()

        def converse(connection: socket.socket) -> None:
            with connection:
                while data := connection.recv(65536):
                    seen.append(data)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname(), seen
        listener.shutdown(socket.SHUT_RDWR)


def test_an_answer_is_as_long_as_head_and_body() -> None:
    assert answer_length(ANSWER) == len(ANSWER)
    assert answer_length(ANSWER[:30]) == 0


@pytest.mark.parametrize("answer", [ANSWER.replace(b"200", b"429"), b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n"])
def test_a_refusal_or_an_answer_without_length_ends_the_run(answer: bytes) -> None:
    with pytest.raises(UnexpectedAnswerError):
        answer_length(answer)


def test_a_plan_ends_by_count_and_numbers_its_requests() -> None:
    with peer(ANSWER) as (address, seen):
        asked = requests.get(f"/{COUNTER.decode()}")
        outcome = drive(Plan(address, (asked,), connections=3, seconds=60, most=10, first_number=5))
    assert (outcome.answers, len(outcome.latencies)) == (10, 10)
    assert {data.split()[1] for data in seen} == {b"/%016x" % number for number in range(5, 15)}


def test_a_plan_ends_by_time() -> None:
    with peer(ANSWER) as (address, seen):
        outcome = drive(Plan(address, (requests.get("/a"), requests.get("/b")), connections=2, seconds=0))
    assert outcome.answers == 2
    assert {data.split()[1] for data in seen} == {b"/a", b"/b"}


def test_followers_ask_again_and_again_and_hold_their_connections() -> None:
    with peer(ANSWER) as (address, seen):
        outcome = follow(Plan(address, (requests.get("/a"),), connections=3, seconds=0.5), period=0.05)
    assert outcome.answers > 3
    assert len(seen) >= outcome.answers


@pytest.mark.parametrize("size", [11, 12, 2048])
def test_the_opponent_answers_exactly_as_many_bytes(size: int) -> None:
    body = constant_body(size)
    assert len(body) == size
    assert set(json.loads(body)) == {"fill"}


def test_uploaded_rows_are_sound_and_distinct() -> None:
    content = requests.chat_rows(20_000, seed=3)
    reader = RowReader()
    rows = list(reader.rows([content]))
    assert len(content) >= 20_000
    assert len(rows) > 10
    assert (reader.report().total_problems, reader.report().total_warnings) == (0, 0)

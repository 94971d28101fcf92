"""Previews when workers and API processes die: an answer or a clear no, and nobody left behind."""

import threading
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from app.db.models import SaliencyPreview
from tests.faults.service import Request, build_request
from tests.faults.world import World
from tests.worker.previews.scripts import scripted_row
from tests.worker.scripted_jobs import wait_until

ROUTE = "/v1/fine_tuning/saliency"


@pytest.fixture
def call(world: World) -> Request:
    built = build_request(world)
    return Request(built.headers, {"model": built.body["model"], "examples": [scripted_row()]})


def ask(client: httpx.Client, call: Request, **script: Any) -> httpx.Response:
    content = {**call.body, "examples": [scripted_row(**script)]}
    return client.post(ROUTE, json=content, headers=call.headers, timeout=60)


def count_previews(world: World, *, running: bool = False) -> int:
    statement = select(func.count()).select_from(SaliencyPreview)
    if running:
        statement = statement.where(SaliencyPreview.lease_token.is_not(None))
    with world.factory() as session:
        return session.scalars(statement).one()


def test_killed_worker_takes_its_previewer_along_and_another_answers(world: World, call: Request) -> None:
    client, first = world.start_api(), world.start_worker()
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(ask(client, call, seconds=2)))
    thread.start()
    wait_until(lambda: count_previews(world, running=True) == 1 and world.trainers_at_work() != [])
    first.kill()
    wait_until(lambda: world.trainers() == [], seconds=2, what="the previewer follows its worker")

    second = world.start_worker()
    thread.join(30)
    assert [answer.status_code for answer in answers] == [200]
    assert count_previews(world) == 0
    second.popen.terminate()
    assert second.popen.wait(15) == 0
    assert world.trainers() == []


def test_worker_that_dies_after_its_claim_delays_the_answer_by_a_lease(world: World, call: Request) -> None:
    client, doomed = world.start_api(), world.start_worker(failpoint="after_preview_claim")
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(ask(client, call).status_code))
    thread.start()
    doomed.popen.wait(20)
    world.start_worker()
    thread.join(30)
    assert answers == [200]


def test_killed_api_leaves_a_preview_that_is_given_up_and_swept(world: World, call: Request) -> None:
    worker, client = world.start_worker(), world.start_api()
    api = world.processes[-1]

    def ask_in_vain() -> None:
        with pytest.raises(httpx.TransportError):
            ask(client, call, seconds=60)

    thread = threading.Thread(target=ask_in_vain)
    thread.start()
    wait_until(lambda: count_previews(world, running=True) == 1)
    api.kill()
    thread.join(10)
    wait_until(lambda: count_previews(world, running=True) == 0, seconds=20, what="the worker gives it up")
    wait_until(lambda: count_previews(world) == 0, seconds=20, what="the row is swept")
    assert ask(world.start_api(), call).status_code == 200
    assert worker.popen.poll() is None

"""Nothing is paid for twice, and what was spent is known: with a real database."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import sessionmaker

from app.completions.ledger import JobLedger, Spending, list_spending
from app.db.models import CompletionAnswer
from app.db.session import SessionFactory
from app.storage import BlobStore
from tests.app.completions.asking import ask, client_of, question
from tests.fixtures.endpoints import FakeEndpoint, Reply
from tests.worker.scripted_jobs import add_job, add_project

MakeLedger = Callable[..., JobLedger]


@pytest.fixture
def project(session_factory: SessionFactory, tmp_path: Path) -> str:
    return add_project(session_factory, BlobStore.from_url(f"file://{tmp_path}/blobs"))


@pytest.fixture
def job(session_factory: SessionFactory, project: str) -> str:
    return add_job(session_factory, project)


@pytest.fixture
def ledger(session_factory: SessionFactory, project: str, job: str) -> JobLedger:
    return JobLedger(session_factory, project, job)


def spent(factory: SessionFactory, job: str) -> Spending:
    with factory() as session:
        return list_spending(session, job)["judge"]


def test_another_attempt_and_another_job_of_the_project_pay_nothing(
    fake_endpoint: FakeEndpoint, session_factory: SessionFactory, project: str, job: str
) -> None:
    other = add_job(session_factory, project)
    for name in (job, job, other):
        with client_of(fake_endpoint, JobLedger(session_factory, project, name)) as client:
            assert [answer.text for answer in ask(client, 3)] == ["It is so."] * 3
    assert len(fake_endpoint.asked) == 3
    assert spent(session_factory, job) == Spending(requests=3, tokens=36, stored_answers=3)
    assert spent(session_factory, other) == Spending(requests=0, tokens=0, stored_answers=3)


def test_another_project_pays_for_itself(
    fake_endpoint: FakeEndpoint, session_factory: SessionFactory, ledger: JobLedger, tmp_path: Path
) -> None:
    stranger = add_project(session_factory, BlobStore.from_url(f"file://{tmp_path}/blobs"))
    foreign = JobLedger(session_factory, stranger, add_job(session_factory, stranger))
    for chosen in (ledger, foreign):
        with client_of(fake_endpoint, chosen) as client:
            ask(client)
    assert len(fake_endpoint.asked) == 2


@pytest.mark.parametrize("change", [{"model": "judge/other"}, {"temperature": 0.5}, {"text": "Something else"}])
def test_a_different_question_is_asked(fake_endpoint: FakeEndpoint, ledger: JobLedger, change: dict[str, Any]) -> None:
    with client_of(fake_endpoint, ledger, models=("other",)) as client:
        ask(client)
        ask(client, **change)
    assert len(fake_endpoint.asked) == 2


def test_a_moved_endpoint_is_asked_again(fake_endpoint: FakeEndpoint, ledger: JobLedger) -> None:
    with client_of(fake_endpoint, ledger) as client:
        ask(client)
    with client_of(fake_endpoint, ledger, base_url=fake_endpoint.url.replace("127.0.0.1", "localhost")) as client:
        ask(client)
    assert len(fake_endpoint.asked) == 2


def test_failures_are_charged_and_asked_again_and_so_are_empty_answers(
    fake_endpoint: FakeEndpoint, session_factory: SessionFactory, ledger: JobLedger, job: str
) -> None:
    fake_endpoint.script(Reply(status=422), Reply("  \n"), Reply("at last"))
    for expected in (None, "  \n", "at last", "at last"):
        with client_of(fake_endpoint, ledger) as client:
            assert ask(client)[0].text == expected
    assert spent(session_factory, job) == Spending(requests=3, tokens=24, stored_answers=1)


def test_a_later_attempt_goes_on_with_what_is_left_of_the_budget(
    fake_endpoint: FakeEndpoint, ledger: JobLedger
) -> None:
    codes = []
    for text in ("first", "second", "third"):
        # Patient: on a busy machine a second try would be charged as well.
        with client_of(fake_endpoint, ledger, max_requests=2, timeout_seconds=30) as client:
            codes.append(ask(client, text=text)[0].code)
    assert codes == [None, None, "budget_exhausted"]


def test_a_request_that_is_broken_off_is_charged(
    fake_endpoint: FakeEndpoint, session_factory: SessionFactory, ledger: JobLedger, job: str
) -> None:
    fake_endpoint.script(Reply(hangs=True))

    def give_up_once_asked(*_: int) -> None:
        if fake_endpoint.asked:
            raise InterruptedError

    with client_of(fake_endpoint, ledger, timeout_seconds=60) as client, pytest.raises(InterruptedError):
        client.complete([question(0)], give_up_once_asked)
    assert spent(session_factory, job) == Spending(requests=1)


def test_a_database_that_is_away_stops_no_question(fake_endpoint: FakeEndpoint, engine: Engine) -> None:
    nowhere = sessionmaker(engine.execution_options(schema_translate_map={None: "no_such_schema"}))
    with client_of(fake_endpoint, JobLedger(nowhere, "proj_x", "ftjob-x")) as client:
        assert ask(client)[0].text == "It is so."


def test_many_questions_at_once_are_all_stored_and_charged(
    fake_endpoint: FakeEndpoint, session_factory: SessionFactory, ledger: JobLedger, job: str
) -> None:
    with client_of(fake_endpoint, ledger, concurrency=16, timeout_seconds=10) as client:
        assert {answer.code for answer in ask(client, 60)} == {None}
    assert spent(session_factory, job) == Spending(requests=60, tokens=720)
    with session_factory() as session:
        assert session.scalar(select(func.count()).select_from(CompletionAnswer)) == 60

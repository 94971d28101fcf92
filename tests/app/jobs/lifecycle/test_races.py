"""Two real sessions at once: the first commit wins, the other one is refused."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.errors import ConflictError
from app.db.models import Adapter, FineTuningJob, JobEvent, JobStatus
from app.db.session import SessionFactory, transaction
from app.jobs import leases, lifecycle
from app.jobs.events import append_events
from app.jobs.leases import Lease, LeaseLostError
from app.jobs.publication import JobResult
from tests.app.jobs.lifecycle.steps import DONE, POLICY, claim, count, expire, read
from tests.worker.scripted_jobs import submit_job


def together(*works: Callable[[], object]) -> list[object]:
    """Run the functions at the same moment; return results or exceptions in order."""
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return work()
        except (ConflictError, LeaseLostError) as error:
            return error

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


@pytest.mark.parametrize("round_number", range(8))
def test_cancel_racing_publish_has_one_winner(
    session_factory: SessionFactory, session: Session, project: str, result: JobResult, *, round_number: int
) -> None:
    submit_job(session, project)
    lease = claim(session)
    session.commit()

    def cancel() -> str:
        with transaction(session_factory) as own:
            return lifecycle.request_cancel(own, project, lease.job_id).status

    def publish() -> bool:
        with transaction(session_factory) as own:
            return lifecycle.succeed(own, lease, result, DONE)

    works = [cancel, publish] if round_number % 2 else [publish, cancel]
    answers = dict(zip([work.__name__ for work in works], together(*works), strict=True))
    status = read(session, lease.job_id).status
    if answers["publish"] is True:
        assert isinstance(answers["cancel"], ConflictError)
        assert (status, count(session, Adapter)) == ("succeeded", 1)
    else:
        assert answers == {"publish": False, "cancel": "running"}
        assert (status, count(session, Adapter)) == ("running", 0)


def test_publish_waits_for_a_cancel_that_is_being_committed_and_then_yields(
    session_factory: SessionFactory, session: Session, project: str, lease: Lease, result: JobResult
) -> None:
    session.commit()
    started, answers = threading.Event(), []

    def publish() -> None:
        with transaction(session_factory) as own:
            started.set()
            answers.append(lifecycle.succeed(own, lease, result, DONE))

    lifecycle.request_cancel(session, project, lease.job_id)
    thread = threading.Thread(target=publish)
    thread.start()
    assert started.wait(5)
    thread.join(0.2)
    assert thread.is_alive()
    session.commit()
    thread.join(5)
    assert answers == [False]


def test_late_publish_of_a_superseded_attempt_changes_nothing(
    session_factory: SessionFactory, session: Session, lease: Lease, result: JobResult
) -> None:
    expire(session, lease)
    lifecycle.reap(session, policy=POLICY, lease_seconds=0)
    successor = claim(session, lease.job_id)
    session.commit()
    with pytest.raises(LeaseLostError), transaction(session_factory) as late:
        lifecycle.succeed(late, lease, result, DONE)
    assert count(session, Adapter) == 0
    assert lifecycle.succeed(session, successor, result, DONE)
    session.commit()
    with pytest.raises(LeaseLostError), transaction(session_factory) as late:
        lifecycle.succeed(late, lease, result, DONE)
    assert not lifecycle.has_succeeded_in(session, lease)
    assert (count(session, Adapter), read(session, lease.job_id).attempt) == (1, 2)


def test_one_job_is_claimed_once_however_many_ask(
    session_factory: SessionFactory, session: Session, job_id: str
) -> None:
    session.commit()

    def take() -> Lease | None:
        with transaction(session_factory) as own:
            return lifecycle.claim(own, worker="tester", lease_seconds=60, hint=job_id)

    leases_won = [lease for lease in together(*[take] * 6) if lease is not None]
    assert len(leases_won) == 1


def test_reaper_and_returning_worker_never_both_have_the_job(
    session_factory: SessionFactory, session: Session, lease: Lease
) -> None:
    expire(session, lease)
    session.commit()

    def reap() -> list[str]:
        with transaction(session_factory) as own:
            return lifecycle.reap(own, policy=POLICY, lease_seconds=0)

    def renew() -> bool:
        with transaction(session_factory) as own:
            return lifecycle.renew(own, lease, lease_seconds=60)

    reaped, _, renewed = together(reap, reap, renew)
    status = read(session, lease.job_id).status
    assert (status == JobStatus.RUNNING) == (renewed is False)
    assert isinstance(renewed, LeaseLostError) or reaped == []


def test_events_of_one_job_are_numbered_in_commit_order(
    session_factory: SessionFactory, session: Session, lease: Lease
) -> None:
    session.commit()

    def write(name: str) -> None:
        for number in range(10):
            with transaction(session_factory) as own:
                leases.lock(own, lease)
                lifecycle.append_event(own, lease.job_id, attempt=1, level="info", message=f"{name}{number}")

    together(*(lambda name=name: write(name) for name in "abc"))
    found = select(JobEvent.message).where(JobEvent.job_id == lease.job_id).order_by(JobEvent.sequence)
    seen = [message for message in session.scalars(found) if len(message) == 2]
    assert len(seen) == 30
    assert all([each for each in seen if each[0] == name] == [f"{name}{i}" for i in range(10)] for name in "abc")
    assert session.scalars(select(FineTuningJob.status)).one() == "running"


def test_events_appended_together_keep_their_order_and_fields(session: Session, lease: Lease) -> None:
    fields = [
        {"level": "info", "type": "metrics", "message": f"Step {number}", "data": {"step": number} if number else None}
        for number in range(150)
    ]
    append_events(session, lease.job_id, fields, attempt=1)
    append_events(session, lease.job_id, [], attempt=1)
    found = select(JobEvent).where(JobEvent.job_id == lease.job_id, JobEvent.type == "metrics")
    rows = session.scalars(found.order_by(JobEvent.sequence)).all()
    assert [row.message for row in rows] == [one["message"] for one in fields]
    assert [row.data for row in rows] == [one["data"] for one in fields]
    assert session.scalars(found.where(JobEvent.data.is_(None))).one().message == "Step 0"
    assert len({row.id for row in rows}) == 150

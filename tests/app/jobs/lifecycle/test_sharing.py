"""Who may be claimed for the trainer of a job that was claimed before."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.db.models import FineTuningJob
from app.db.session import SessionFactory
from app.jobs import lifecycle
from app.jobs.leases import Lease
from app.jobs.lifecycle import Room
from app.storage import BlobStore
from tests.app.jobs.lifecycle.steps import LOST, POLICY, claim, count, read
from tests.worker.scripted_jobs import add_project, submit_job

ERROR = lifecycle.JobError("worker_lost", "gone")


def submit(session: Session, project: str, count: int = 1) -> list[str]:
    """Submit jobs, each in a transaction and so at a time of its own."""
    jobs = []
    for _ in range(count):
        jobs.append(submit_job(session, project))
        session.commit()
    return jobs


def change(session: Session, job_id: str, **values: Any) -> None:
    session.execute(update(FineTuningJob).where(FineTuningJob.id == job_id).values(**values))
    session.commit()


def claim_beside(session: Session, first: Lease) -> str | None:
    lease = lifecycle.claim(session, worker="tester", lease_seconds=60, room=Room(1, 4), beside=first)
    session.commit()
    return lease.job_id if lease else None


def test_the_jobs_behind_a_claimed_one_join_it_in_their_order(session: Session, project: str) -> None:
    jobs = submit(session, project, 3)
    first = claim(session)
    assert first.job_id == jobs[0]
    assert [claim_beside(session, first) for _ in range(3)] == [jobs[1], jobs[2], None]
    row = read(session, jobs[1])
    assert (row.status, row.attempt, row.lease_owner) == ("running", 1, "tester")
    assert row.lease_token not in (None, first.token)


def test_a_job_that_may_not_join_is_not_overtaken_by_one_that_may(session: Session, project: str) -> None:
    first, other, twin = submit(session, project, 3)
    change(session, other, spec={**read(session, other).spec, "base_model": {"name": "another"}})
    assert claim_beside(session, claim(session, first)) is None
    assert read(session, twin).status == "queued"


def test_another_projects_job_keeps_its_place(
    session: Session, project: str, session_factory: SessionFactory, store: BlobStore
) -> None:
    jobs = submit(session, project, 2)
    stranger = submit(session, add_project(session_factory, store))[0]
    first = claim(session, jobs[0])
    # The project has a running job now, so the other project's is next.
    assert claim_beside(session, first) is None
    assert claim(session).job_id == stranger


def runtime(threads: int) -> Callable[[FineTuningJob], dict[str, Any]]:
    return lambda job: {"spec": {**job.spec, "runtime": {**job.spec["runtime"], "threads": threads}}}


@pytest.mark.parametrize("harmed", ["the first", "the next"])
@pytest.mark.parametrize(
    "changes",
    [
        lambda _: {"lost_count": 1},
        lambda _: {"failed_count": 1},
        lambda _: {"n_gpus": 2},
        runtime(7),
    ],
)
def test_only_jobs_of_a_kind_that_never_came_to_grief_join(
    session: Session, project: str, harmed: str, changes: Callable[[FineTuningJob], dict[str, Any]]
) -> None:
    jobs = submit(session, project, 2)
    first = claim(session, jobs[0])
    job_id = jobs[0 if harmed == "the first" else 1]
    change(session, job_id, **changes(read(session, job_id)))
    assert claim_beside(session, first) is None


def test_who_was_lost_in_company_is_claimed_for_itself(session: Session, project: str) -> None:
    jobs = submit(session, project, 3)
    first = claim(session, jobs[0])
    second = lifecycle.claim(session, worker="tester", lease_seconds=60, beside=first)
    assert second is not None
    for lease in (first, second):
        lifecycle.retry(session, lease, ERROR, LOST, policy=POLICY)
    session.commit()
    alone = claim(session, jobs[0])
    assert alone.attempt == 2
    assert claim_beside(session, alone) is None
    fresh = claim(session, jobs[2])
    assert claim_beside(session, fresh) is None  # the lost one is next, and may not join
    assert count(session, FineTuningJob) == 3


def test_a_cancelled_job_does_not_join(session: Session, project: str) -> None:
    jobs = submit(session, project, 2)
    first = claim(session, jobs[0])
    lifecycle.request_cancel(session, project, jobs[1])
    assert claim_beside(session, first) is None

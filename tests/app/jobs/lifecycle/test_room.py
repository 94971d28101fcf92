"""Who is claimed for a host whose devices are partly busy."""

from sqlalchemy.orm import Session

from app.jobs import lifecycle
from app.jobs.lifecycle import Room
from tests.worker.scripted_jobs import submit_job


def submit(session: Session, project: str, *wanted: int) -> list[str]:
    """Submit a job for each number of devices, each in a transaction and so at a time of its own."""
    jobs = []
    for n_gpus in wanted:
        jobs.append(submit_job(session, project, n_gpus=n_gpus))
        session.commit()
    return jobs


def claim(session: Session, free: int, total: int, hint: str | None = None) -> str | None:
    room = Room(free, total)
    lease = lifecycle.claim(session, worker="tester", lease_seconds=60, hint=hint, room=room)
    session.commit()
    return lease.job_id if lease else None


def test_a_claim_says_how_many_devices_the_job_wants(session: Session, project: str) -> None:
    submit(session, project, 3)
    lease = lifecycle.claim(session, worker="tester", lease_seconds=60, room=Room(4, 4))
    assert lease is not None
    assert lease.n_gpus == 3


def test_a_job_too_large_for_the_host_is_passed_over_and_left_to_a_larger_one(session: Session, project: str) -> None:
    large, small = submit(session, project, 4, 1)
    assert claim(session, 2, 2) == small
    assert claim(session, 2, 2, hint=large) is None
    assert claim(session, 4, 8) == large


def test_a_job_that_waits_for_devices_is_not_overtaken(session: Session, project: str) -> None:
    large, small, hinted = submit(session, project, 4, 1, 1)
    for free in (0, 1, 3):
        assert claim(session, free, 4) is None
        assert claim(session, free, 4, hint=hinted) is None
    assert claim(session, 4, 4, hint=hinted) == hinted  # nobody has to wait: the hint counts again
    assert claim(session, 3, 4) is None
    assert claim(session, 4, 4) == large
    assert claim(session, 0, 4) is None
    assert claim(session, 1, 4) == small


def test_what_comes_before_the_waiting_job_goes_on(session: Session, project: str) -> None:
    large = submit(session, project, 2)[0]
    urgent = submit_job(session, project, priority=1)
    session.commit()
    assert claim(session, 1, 2) == urgent
    assert claim(session, 1, 2) is None
    assert claim(session, 2, 2) == large


def test_a_cancelled_giant_holds_nobody_up(session: Session, project: str) -> None:
    large, small = submit(session, project, 2, 1)
    lifecycle.request_cancel(session, project, large)
    session.commit()
    assert claim(session, 1, 2) == small

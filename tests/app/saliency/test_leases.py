"""The queue of previews: who is next, who owns what, and what becomes of the abandoned."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import func, literal, update

from app.db.models import FineTuningJob, SaliencyPreview
from app.db.session import SessionFactory, transaction
from app.saliency import leases, repository
from app.saliency.leases import MOST_ATTEMPTS, ClaimedPreview
from app.storage import BlobStore
from tests.worker.previews.scripts import add_preview, read_preview
from tests.worker.scripted_jobs import add_job, add_project


@pytest.fixture
def project(session_factory: SessionFactory, store: BlobStore) -> str:
    return add_project(session_factory, store)


def claim(factory: SessionFactory, *, lease_seconds: float = 60.0) -> ClaimedPreview | None:
    with transaction(factory) as session:
        return leases.claim(session, lease_seconds=lease_seconds)


def must_claim(factory: SessionFactory, **options: float) -> ClaimedPreview:
    claimed = claim(factory, **options)
    assert claimed is not None
    return claimed


def age(
    factory: SessionFactory, table: type[SaliencyPreview] | type[FineTuningJob], row_id: str, hours: int = 1
) -> None:
    """Make a row so many hours old."""
    with transaction(factory) as session:
        session.execute(
            update(table)
            .where(table.id == row_id)
            .values(created_at=func.now() - literal(timedelta(hours=hours)))
            .execution_options(synchronize_session=False)
        )


def test_the_oldest_preview_is_claimed_first_and_once(session_factory: SessionFactory, project: str) -> None:
    first, second = (add_preview(session_factory, project) for _ in range(2))
    claimed = [must_claim(session_factory).preview_id, must_claim(session_factory).preview_id]
    assert claimed == [first, second]
    assert claim(session_factory) is None


def test_a_job_that_waits_longer_comes_first(session_factory: SessionFactory, project: str) -> None:
    preview = add_preview(session_factory, project)
    job = add_job(session_factory, project)
    age(session_factory, FineTuningJob, job)
    assert claim(session_factory) is None
    age(session_factory, SaliencyPreview, preview, hours=2)
    assert must_claim(session_factory).preview_id == preview


def test_a_job_that_came_later_waits(session_factory: SessionFactory, project: str) -> None:
    preview = add_preview(session_factory, project)
    add_job(session_factory, project)
    age(session_factory, SaliencyPreview, preview)
    assert must_claim(session_factory).preview_id == preview


def test_an_urgent_job_comes_first_whenever_it_came(session_factory: SessionFactory, project: str) -> None:
    preview = add_preview(session_factory, project)
    age(session_factory, SaliencyPreview, preview)
    job = add_job(session_factory, project)
    with transaction(session_factory) as session:
        session.execute(update(FineTuningJob).where(FineTuningJob.id == job).values(priority=1))
    assert claim(session_factory) is None


@pytest.mark.parametrize(
    "held_back", [{"not_before": func.now() + literal(timedelta(hours=1))}, {"cancel_requested_at": func.now()}]
)
def test_a_job_that_cannot_start_holds_nobody_up(
    session_factory: SessionFactory, project: str, held_back: dict[str, object]
) -> None:
    job = add_job(session_factory, project)
    age(session_factory, FineTuningJob, job)
    with transaction(session_factory) as session:
        session.execute(update(FineTuningJob).where(FineTuningJob.id == job).values(held_back))
    add_preview(session_factory, project)
    assert claim(session_factory) is not None


def test_a_preview_that_nobody_waits_for_is_not_worked_on(session_factory: SessionFactory, project: str) -> None:
    add_preview(session_factory, project, wanted_seconds=-1)
    assert claim(session_factory) is None


def test_an_expired_lease_is_taken_over_and_its_late_holder_leaves_no_trace(
    session_factory: SessionFactory, project: str
) -> None:
    add_preview(session_factory, project)
    late, heir = must_claim(session_factory, lease_seconds=-1), must_claim(session_factory)
    with transaction(session_factory) as session:
        assert not leases.renew(session, late, lease_seconds=60)
        assert not leases.finish(session, late, answer=b"late")
        assert not leases.release(session, late, is_counted=False)
        assert leases.renew(session, heir, lease_seconds=60)
        assert leases.finish(session, heir, answer=b"{}")
    with session_factory() as session:
        state = repository.look(session, heir.preview_id)
    assert state is not None
    assert (state.has_finished, state.answer) == (True, b"{}")


def test_attempts_run_out_and_the_waiter_sees_it(session_factory: SessionFactory, project: str) -> None:
    preview = add_preview(session_factory, project)
    for _ in range(MOST_ATTEMPTS):
        must_claim(session_factory, lease_seconds=-1)
    assert claim(session_factory) is None
    with session_factory() as session:
        state = repository.look(session, preview)
    assert state is not None
    assert state.is_lost


def test_a_release_of_a_leaving_worker_is_not_counted(session_factory: SessionFactory, project: str) -> None:
    preview = add_preview(session_factory, project)
    for _ in range(MOST_ATTEMPTS + 1):
        with transaction(session_factory) as session:
            claimed = leases.claim(session, lease_seconds=60)
            assert claimed is not None
            assert leases.release(session, claimed, is_counted=False)
    found = read_preview(session_factory, preview)
    assert found is not None
    assert (found.attempt, found.lease_token) == (0, None)


def test_renewing_tells_whether_somebody_still_waits(session_factory: SessionFactory, project: str) -> None:
    preview = add_preview(session_factory, project)
    claimed = must_claim(session_factory)
    with transaction(session_factory) as session:
        assert leases.renew(session, claimed, lease_seconds=60)
        repository.keep_wanted(session, preview, wanted_seconds=-1)
        assert not leases.renew(session, claimed, lease_seconds=60)
        repository.remove(session, preview)
        assert not leases.renew(session, claimed, lease_seconds=60)


def test_forgotten_previews_are_swept_and_wanted_ones_stay(session_factory: SessionFactory, project: str) -> None:
    add_preview(session_factory, project, wanted_seconds=-100)
    wanted = add_preview(session_factory, project)
    with transaction(session_factory) as session:
        assert repository.remove_forgotten(session, older_seconds=60) == 1
    assert read_preview(session_factory, wanted) is not None


def test_claims_at_the_same_time_never_share(session_factory: SessionFactory, project: str) -> None:
    for _ in range(8):
        add_preview(session_factory, project)
    found: list[str] = []

    def work() -> None:
        while (claimed := claim(session_factory)) is not None:
            found.append(claimed.preview_id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(set(found))
    while (claimed := claim(session_factory)) is not None:
        found.append(claimed.preview_id)
    assert len(set(found)) == 8

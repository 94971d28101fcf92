"""The loop that repeats, reaps, prunes and collects; its steps against real servers."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import redis
from pydantic import SecretStr
from sqlalchemy import Engine, func, select, update

from app.core.settings import Settings
from app.db.models import Blob, CompletionAnswer, FineTuningJob, StagePart
from app.db.session import SessionFactory, build_engine, build_session_factory, transaction
from app.jobs import lifecycle
from app.jobs.exclusive import COLLECT, RECONCILE, Turn
from app.jobs.leases import Lease
from app.jobs.reconcile import Reconciler, start_reconcile_loop
from app.queue import QUEUE_NAME, JobQueue
from app.storage import BlobNotFoundError, BlobStore
from tests.worker.scripted_jobs import add_job, add_project, quick_settings, read_job, wait_until

HOUR_AGO = func.now() - timedelta(hours=1)


@pytest.fixture
def quick(database_url: str, broker_url: str, tmp_path: Path) -> Settings:
    return quick_settings(database_url, broker_url, tmp_path, blob_grace_seconds=3600.0, lease_seconds=0.01)


@pytest.fixture
def broker(broker_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(broker_url.replace("redis+socket://", "unix://")) as client:
        client.delete(QUEUE_NAME)
        yield client
        client.delete(QUEUE_NAME)


@pytest.fixture
def reconciler(quick: Settings, engine: Engine, session_factory: SessionFactory) -> Iterator[Reconciler]:
    queue = JobQueue.from_settings(quick)
    yield Reconciler(quick, engine, session_factory, queue, BlobStore.from_url(quick.storage_url))
    queue.close()


@pytest.fixture
def job_id(reconciler: Reconciler) -> str:
    return add_job(reconciler.factory, add_project(reconciler.factory, reconciler.store))


def claim(factory: SessionFactory) -> Lease:
    with transaction(factory) as session:
        lease = lifecycle.claim(session, worker="silent", lease_seconds=60)
        assert lease is not None
        session.execute(update(FineTuningJob).values(lease_expires_at=HOUR_AGO))
    return lease


def test_unannounced_job_is_announced_once(reconciler: Reconciler, broker: redis.Redis, job_id: str) -> None:
    for _ in range(2):
        reconciler.reconcile()
    assert broker.llen(QUEUE_NAME) == 1
    assert read_job(reconciler.factory, job_id).dispatch_count == 1


def test_hint_that_the_broker_refused_stays_due(
    reconciler: Reconciler, broker: redis.Redis, quick: Settings, job_id: str
) -> None:
    deaf = JobQueue.from_settings(quick.model_copy(update={"broker_url": SecretStr("redis://127.0.0.1:1/0")}))
    Reconciler(quick, reconciler.engine, reconciler.factory, deaf, reconciler.store).reconcile()
    assert read_job(reconciler.factory, job_id).dispatched_at is None
    deaf.close()
    reconciler.reconcile()
    assert broker.llen(QUEUE_NAME) == 1


def test_silent_worker_loses_its_job(reconciler: Reconciler, broker: redis.Redis, job_id: str) -> None:
    claim(reconciler.factory)
    reconciler.reconcile()
    job = read_job(reconciler.factory, job_id)
    assert (job.status, job.lost_count) == ("queued", 1)


def test_nobody_is_reaped_for_one_lease_after_the_database_was_away(
    reconciler: Reconciler, quick: Settings, job_id: str
) -> None:
    claim(reconciler.factory)
    nowhere = build_engine(quick.model_copy(update={"database_url": SecretStr("postgresql://x@127.0.0.1:1/x")}))
    patient = quick.model_copy(update={"lease_seconds": 60.0})
    cut_off = Reconciler(patient, nowhere, build_session_factory(nowhere), reconciler.queue, reconciler.store)
    cut_off.reconcile()
    back = Reconciler(patient, reconciler.engine, reconciler.factory, reconciler.queue, reconciler.store)
    back.reap_after = cut_off.reap_after
    back.reconcile()
    assert read_job(reconciler.factory, job_id).status == "running"
    back.reap_after = 0
    back.settings = quick
    back.reconcile()
    assert read_job(reconciler.factory, job_id).status == "queued"


def test_one_process_at_a_time(reconciler: Reconciler, job_id: str) -> None:
    with Turn(reconciler.engine, RECONCILE, 60).take() as mine:
        assert mine
        reconciler.reconcile()
        with Turn(reconciler.engine, COLLECT, 60).take() as other:
            assert other
    assert read_job(reconciler.factory, job_id).dispatched_at is None
    reconciler.reconcile()
    assert read_job(reconciler.factory, job_id).dispatched_at is not None


def test_unreferenced_blobs_go_and_referenced_ones_stay(reconciler: Reconciler, job_id: str) -> None:
    garbage = reconciler.store.put_bytes(b"garbage")
    with transaction(reconciler.factory) as session:
        session.add(Blob(sha256=garbage.sha256, bytes=garbage.bytes))
        session.flush()
        session.execute(update(Blob).values(last_seen_at=HOUR_AGO - timedelta(hours=1)))
    reconciler.collect()
    with pytest.raises(BlobNotFoundError):
        reconciler.store.size(garbage.sha256)
    with reconciler.factory() as session:
        kept = session.scalars(select(Blob.sha256)).all()
    assert len(kept) == 1
    assert reconciler.store.size(kept[0]) > 0


def test_what_building_left_goes_once_no_job_has_used_it_for_long(reconciler: Reconciler, job_id: str) -> None:
    kept_for = reconciler.settings.building_cache_seconds
    long_ago, lately = (func.now() - timedelta(seconds=seconds) for seconds in (kept_for + 60, kept_for - 60))
    blob = reconciler.store.put_bytes(b"a part")
    with transaction(reconciler.factory) as session:
        project = session.get_one(FineTuningJob, job_id).project_id
        session.add(Blob(sha256=blob.sha256, bytes=blob.bytes, last_seen_at=long_ago))
        session.flush()
        for part, used in enumerate((long_ago, lately)):
            places = {"project_id": project, "stage": "rollout", "key": "k", "part": part}
            session.add(StagePart(**places, sha256=blob.sha256, bytes=blob.bytes, last_used_at=used))
            session.add(CompletionAnswer(project_id=project, key=str(part), text="t", tokens=1, last_used_at=used))
    reconciler.collect()
    with reconciler.factory() as session:
        assert session.scalars(select(StagePart.part)).all() == [1]
        assert session.scalars(select(CompletionAnswer.key)).all() == ["1"]
    assert reconciler.store.size(blob.sha256) == blob.bytes

    with transaction(reconciler.factory) as session:
        session.execute(update(StagePart).values(last_used_at=long_ago))
    reconciler.collect()
    with pytest.raises(BlobNotFoundError):
        reconciler.store.size(blob.sha256)


def test_loop_survives_a_database_that_drops_its_connections(
    quick: Settings, postgres_url: str, reconciler: Reconciler, broker: redis.Redis, job_id: str
) -> None:
    stop = start_reconcile_loop(quick)
    try:
        wait_until(lambda: read_job(reconciler.factory, job_id).dispatch_count == 1)
        database = quick.database_url.get_secret_value().rsplit("/", 1)[1].split("?")[0]
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database,))
        later = add_job(reconciler.factory, read_job(reconciler.factory, job_id).project_id)
        wait_until(lambda: read_job(reconciler.factory, later).dispatch_count == 1)
    finally:
        stop()


def test_frozen_holder_of_the_lock_keeps_nobody_from_reaping_for_longer_than_a_lease(
    reconciler: Reconciler, quick: Settings, job_id: str
) -> None:
    claim(reconciler.factory)
    patient = Reconciler(
        quick.model_copy(update={"lease_seconds": 0.3}),
        reconciler.engine,
        reconciler.factory,
        reconciler.queue,
        reconciler.store,
    )
    with Turn(reconciler.engine, RECONCILE, 60).take():
        patient.reconcile()
        assert read_job(reconciler.factory, job_id).status == "running"

        def reaped() -> bool:
            patient.reconcile()
            return read_job(reconciler.factory, job_id).status == "queued"

        wait_until(reaped, seconds=10, what="the lock is passed over")


def test_frozen_transaction_loses_its_row_locks_within_a_lease(
    reconciler: Reconciler, quick: Settings, job_id: str
) -> None:
    claim(reconciler.factory)
    engine = build_engine(quick.model_copy(update={"lease_seconds": 1.0}))
    with engine.connect() as frozen:
        frozen.execute(select(FineTuningJob.id).where(FineTuningJob.id == job_id).with_for_update())

        def reaped() -> bool:
            reconciler.reconcile()
            return read_job(reconciler.factory, job_id).status == "queued"

        assert not reaped()
        wait_until(reaped, seconds=10, what="the row is free again")
        frozen.invalidate()
    engine.dispose()

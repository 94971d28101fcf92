import shutil
import threading
from pathlib import Path

import pytest
from sqlalchemy import func, select

from app.db.models import Adapter
from app.db.session import transaction
from app.jobs import lifecycle
from app.jobs.attempts import AttemptRecord
from app.jobs.leases import Lease, LeaseLostError
from app.jobs.publication import JobResult
from tests.worker.scripted_jobs import add_job, read_job
from worker import patience
from worker.context import WorkerContext
from worker.publishing import collect_result, publish
from worker.training.events import ResultEvent

RESULT = ResultEvent(trained_tokens=5, steps=1, metrics={"train_loss": 0.5})
DONE = AttemptRecord("succeeded", 0)
CONFIG = '{"peft_type": "LORA"}'
HEADER = (
    b'{"l.lora_A.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},'
    b'"l.lora_B.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[4,8]}}'
)


@pytest.fixture
def lease(context: WorkerContext, project: str) -> Lease:
    add_job(context.factory, project)
    with transaction(context.factory) as session:
        lease = lifecycle.claim(session, worker="tester", lease_seconds=60)
    assert lease is not None
    return lease


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    outputs = tmp_path / "workspace" / "outputs"
    outputs.mkdir(parents=True)
    (outputs / "adapter_config.json").write_text(CONFIG)
    (outputs / "adapter_model.safetensors").write_bytes(len(HEADER).to_bytes(8, "little") + HEADER + bytes(8))
    (outputs / "metrics.csv").write_text("step\n")
    return outputs.parent


@pytest.fixture
def result(context: WorkerContext, folder: Path) -> JobResult:
    return collect_result(context, folder, RESULT, never)


def never() -> bool:
    return False


def count_adapters(context: WorkerContext) -> int:
    with context.factory() as session:
        return session.scalars(select(func.count()).select_from(Adapter)).one()


def test_commit_whose_reply_was_lost_is_recognised_as_ours(
    context: WorkerContext, lease: Lease, result: JobResult
) -> None:
    for _ in range(2):
        assert publish(context, lease, result, DONE, give_up=never)
    assert count_adapters(context) == 1


def test_result_of_a_superseded_attempt_is_refused(context: WorkerContext, lease: Lease, result: JobResult) -> None:
    with transaction(context.factory) as session:
        lifecycle.requeue(session, lease, AttemptRecord("stopped"))
        successor = lifecycle.claim(session, worker="successor", lease_seconds=60)
    assert successor is not None
    with pytest.raises(LeaseLostError):
        publish(context, lease, result, DONE, give_up=never)
    assert publish(context, successor, result, DONE, give_up=never)
    with pytest.raises(LeaseLostError):
        publish(context, lease, result, DONE, give_up=never)
    assert count_adapters(context) == 1


def test_cancel_that_came_first_wins(context: WorkerContext, project: str, lease: Lease, result: JobResult) -> None:
    with transaction(context.factory) as session:
        lifecycle.request_cancel(session, project, lease.job_id)
    assert not publish(context, lease, result, DONE, give_up=never)
    assert (read_job(context.factory, lease.job_id).status, count_adapters(context)) == ("running", 0)


def test_result_waits_for_a_store_that_is_away(context: WorkerContext, lease: Lease, folder: Path) -> None:
    place = Path(context.settings.storage_url.removeprefix("file://"))
    place.rename(place.with_name("away"))
    tries: list[int] = []

    def come_back() -> bool:
        tries.append(1)
        if len(tries) == 3:
            place.with_name("away").rename(place)
        return False

    result = collect_result(context, folder, RESULT, come_back)
    assert publish(context, lease, result, DONE, give_up=never)
    assert len(tries) >= 3


def test_waiting_for_a_store_can_be_given_up(context: WorkerContext, folder: Path) -> None:
    Path(context.settings.storage_url.removeprefix("file://")).rename(folder / "away")
    with pytest.raises(patience.GaveUpError):
        collect_result(context, folder, RESULT, lambda: True)


def test_equal_results_published_at_once_share_their_blobs(
    context: WorkerContext, project: str, lease: Lease, folder: Path
) -> None:
    add_job(context.factory, project)
    with transaction(context.factory) as session:
        other = lifecycle.claim(session, worker="tester", lease_seconds=60)
    assert other is not None
    twin = Path(shutil.copytree(folder, folder.with_name("twin")))

    def work(mine: Lease, copy: Path) -> None:
        publish(context, mine, collect_result(context, copy, RESULT, never), DONE, give_up=never)

    threads = [threading.Thread(target=work, args=pair) for pair in ((lease, folder), (other, twin))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert count_adapters(context) == 2

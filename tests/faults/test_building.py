"""Whatever is killed while rows are built: nothing is paid for twice, kept twice or published twice."""

import signal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from app.completions.ledger import Spending, list_spending
from app.db.models import File, StagePart
from tests.faults.verdict import check
from tests.faults.world import Process, World
from tests.fixtures.endpoints import KEY, FakeEndpoint, Reply
from tests.worker.scripted_jobs import RAW_ROWS, add_job, add_project, read_attempts, wait_until

DATASET = '{"messages": [{"role": "user", "content": "2+2?"}], "response": "4", "reference": "4", "correct": true}\n'


def start_worker(world: World, endpoint: FakeEndpoint | None = None, **changes: Any) -> Process:
    if endpoint is not None:
        path = world.root / "endpoints.toml"
        path.write_text(f'[judge]\nbase_url = "{endpoint.url}"\napi_key = "{KEY}"\nmodel = "m"\nconcurrency = 1\n')
        changes["endpoints_file"] = path
    return world.start_worker(module="tests.faults.building_worker", **changes)


def add(world: World, **script: Any) -> str:
    job_id = add_job(world.factory, add_project(world.factory, world.store, RAW_ROWS), **script)
    assert world.queue.enqueue_job(job_id)
    return job_id


def built_files(world: World) -> list[str]:
    with world.factory() as session:
        return list(session.scalars(select(File.id).where(File.filename == "dataset.jsonl")))


@pytest.mark.parametrize(("failpoint", "attempts"), [("before_publish_commit", 2), ("after_publish_commit", 1)])
def test_a_built_dataset_becomes_one_file_whenever_the_worker_dies(world: World, failpoint: str, attempts: int) -> None:
    job_id = add(world, parts=2, dataset=DATASET)
    doomed = start_worker(world, failpoint=failpoint)
    assert doomed.popen.wait(20) == -signal.SIGKILL

    start_worker(world)
    job = check(world, job_id, "succeeded")
    assert job.attempt == attempts
    assert built_files(world) == [job.built_file_id]
    with world.factory() as session:
        assert session.scalar(select(func.count()).select_from(StagePart)) == 2


def test_a_worker_killed_while_its_child_waits_takes_it_along_and_another_pays_only_for_the_rest(
    world: World, fake_endpoint: FakeEndpoint
) -> None:
    replies = [Reply("first"), Reply("second"), Reply(hangs=True), Reply("third")]
    fake_endpoint.script(*replies)
    job_id = add(world, questions=3)
    doomed = start_worker(world, fake_endpoint)
    wait_until(lambda: len(fake_endpoint.asked) == 3, what="the third question")
    doomed.kill()
    wait_until(lambda: world.trainers() == [], seconds=2, what="the child follows its worker")

    start_worker(world, fake_endpoint)
    check(world, job_id, "succeeded")
    *first, again = [asked.text for asked in fake_endpoint.asked]
    assert sorted(first) == ["Question 0", "Question 1", "Question 2"]  # one at a time, in whatever order
    assert again == first[-1]


def test_a_killed_child_leaves_what_it_has_built_and_what_it_has_spent(
    world: World, fake_endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    job_id = add(world, parts=3, questions=4, crash_marker=str(tmp_path / "crashed"))
    start_worker(world, fake_endpoint)
    check(world, job_id, "succeeded")
    assert [attempt.outcome for attempt in read_attempts(world.factory, job_id)] == ["lost", "succeeded"]
    with world.factory() as session:
        assert list_spending(session, job_id) == {"judge": Spending(requests=4, tokens=48, stored_answers=4)}
        assert session.scalar(select(func.count()).select_from(StagePart)) == 3

"""Devices of a host are handed out once, all of a job's together; jobs that want more wait without being overtaken."""

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from app.core.devices import DeviceList
from app.db.session import transaction
from app.jobs import lifecycle
from tests.worker.scripted_jobs import add_job, read_job, submit_job, wait_until
from worker.context import WorkerContext
from worker.devices import offer_devices
from worker.runner import run_available

FOUR = DeviceList.parse("4")


def test_devices_are_handed_out_once_and_come_back(tmp_path: Path) -> None:
    with offer_devices(tmp_path, FOUR) as offer:
        assert (offer.free, offer.total) == (4, 4)
        held = offer.take(3)
    assert held.names == ("0", "1", "2")
    with offer_devices(tmp_path, FOUR) as offer:
        assert (offer.free, offer.total) == (1, 4)
        assert offer.take(1).names == ("3",)
    held.release()
    with offer_devices(tmp_path, FOUR) as offer:
        assert offer.free == 3


def test_a_device_that_stands_twice_is_shared_by_two_jobs_but_never_given_twice_to_one(tmp_path: Path) -> None:
    shared = DeviceList.parse("0,0,1")
    with offer_devices(tmp_path, shared) as offer:
        assert (offer.free, offer.total) == (2, 2)
        assert offer.take(2).names == ("0", "1")
    with offer_devices(tmp_path, shared) as offer:
        assert offer.free == 1
        assert offer.take(1).names == ("0",)


def test_an_orphan_keeps_the_device_of_its_dead_worker(tmp_path: Path) -> None:
    with offer_devices(tmp_path, FOUR) as offer:
        held = offer.take(2)
    waiting = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"]
    orphan = subprocess.Popen(waiting, stdin=subprocess.PIPE, pass_fds=held.descriptors)
    held.release()
    with offer_devices(tmp_path, FOUR) as offer:
        assert offer.free == 2
    orphan.communicate()
    with offer_devices(tmp_path, FOUR) as offer:
        assert offer.free == 4


def test_two_claims_on_a_host_are_never_offered_the_same_device(tmp_path: Path) -> None:
    seen: list[int] = []

    def claim() -> None:
        with offer_devices(tmp_path, FOUR) as offer:
            seen.append(offer.free)
            offer.take(1)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [1, 2, 3, 4]


def test_without_configured_devices_nothing_is_locked(tmp_path: Path) -> None:
    with offer_devices(tmp_path, DeviceList()) as offer:
        assert (offer.free, offer.total, offer.take(1).names) == (1, 1, ())
    assert list(tmp_path.iterdir()) == []


def with_devices(context: WorkerContext, devices: str, slots: int) -> WorkerContext:
    changes = {"worker_devices": devices, "worker_slots": slots}
    return replace(context, settings=context.settings.model_copy(update=changes))


def test_a_job_runs_in_a_process_for_each_of_its_devices(context: WorkerContext, project: str, tmp_path: Path) -> None:
    host = with_devices(context, "4,5,7", 1)
    with transaction(host.factory) as session:
        job_id = submit_job(session, project, {"steps": 2, "environment": str(tmp_path)}, n_gpus=2)
    assert run_available(host) == 1
    assert read_job(host.factory, job_id).status == "succeeded"
    told = [json.loads(path.read_text()) for path in tmp_path.glob("environment*.json")]
    assert {one["RANK"] for one in told} == {"0", "1"}
    assert {(one["CUDA_VISIBLE_DEVICES"], one["WORLD_SIZE"]) for one in told} == {("4,5", "2")}
    with offer_devices(host.settings.workspaces, host.settings.devices) as offer:
        assert offer.free == 3


def test_a_job_of_one_device_sees_that_one(context: WorkerContext, project: str, tmp_path: Path) -> None:
    host = with_devices(context, "cpu:2", 1)
    add_job(host.factory, project, steps=1, environment=str(tmp_path))
    assert run_available(host) == 1
    (told,) = [json.loads(path.read_text()) for path in tmp_path.glob("environment*.json")]
    assert told["CUDA_VISIBLE_DEVICES"] == ""
    assert "RANK" not in told


@pytest.mark.parametrize("wanted", [2, 3])
def test_a_large_job_waits_for_its_devices_and_small_ones_behind_it_for_it(
    context: WorkerContext, project: str, wanted: int
) -> None:
    host = with_devices(context, "cpu:3", 3)
    running = add_job(host.factory, project, steps=100_000, step_seconds=0.02)
    first = threading.Thread(target=run_available, args=(host,))
    first.start()
    wait_until(lambda: read_job(host.factory, running).status == "running", what="the first job")
    with transaction(host.factory) as session:
        large = submit_job(session, project, {"steps": 2}, n_gpus=wanted)
    with transaction(host.factory) as session:
        small = submit_job(session, project, {"steps": 2})
    if wanted == 2:  # two are free
        assert run_available(host, small) == 2
    else:
        assert run_available(host, small) == 0
        assert read_job(host.factory, small).status == "queued"
    with transaction(host.factory) as session:
        lifecycle.request_cancel(session, project, running)
    first.join()  # the slot goes on with what has become possible
    if wanted == 3:
        run_available(host)
    assert [read_job(host.factory, job_id).status for job_id in (large, small)] == ["succeeded"] * 2
    ends = [read_job(host.factory, job_id).finished_at for job_id in (large, small)]
    assert wanted == 2 or ends == sorted(filter(None, ends))

import signal

from tests.faults.verdict import check, result_weights, scripted_weights, wait_for_status
from tests.faults.world import World
from tests.worker.scripted_jobs import add_job, add_project, read_attempts, read_job, wait_until


def test_worker_stopped_beyond_its_lease_publishes_nothing_when_it_wakes(world: World) -> None:
    job_id = add_job(world.factory, add_project(world.factory, world.store), steps=10, step_seconds=0.1)
    sleeper = world.start_worker(poll_seconds=600)
    world.queue.enqueue_job(job_id)
    wait_for_status(world, job_id, "running")
    wait_until(lambda: bool(world.trainers_at_work()), what="the child runs")
    sleeper.send(signal.SIGSTOP)

    # Its child trains on and finishes meanwhile: a complete result waits for the sleeper.
    rival = world.start_worker(poll_seconds=0.5)
    check_taken_over(world, job_id, rival_name=str(rival.popen.pid))
    sleeper.send(signal.SIGCONT)
    wait_until(lambda: "fenced" in sleeper.text(), what="the sleeper notices")

    job = check(world, job_id, "succeeded")
    assert (job.attempt, job.lost_count) == (2, 1)
    assert result_weights(world, job_id).endswith(scripted_weights(10))
    assert [attempt.outcome for attempt in read_attempts(world.factory, job_id)] == ["lost", "succeeded"]


def check_taken_over(world: World, job_id: str, *, rival_name: str) -> None:
    def is_taken_over() -> bool:
        attempts = read_attempts(world.factory, job_id)
        return len(attempts) == 2 and attempts[1].worker.endswith(f":{rival_name}")

    wait_until(is_taken_over, what="the rival takes over")
    wait_until(lambda: read_job(world.factory, job_id).status == "succeeded", what="the rival publishes")

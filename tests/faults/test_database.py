from tests.faults.verdict import check, result_weights, scripted_weights, wait_for_checkpoint, wait_for_status
from tests.faults.world import World
from tests.worker.scripted_jobs import add_job, add_project, read_attempts, wait_until

SCRIPT = {"steps": 20, "step_seconds": 0.1, "checkpoint_every": 5}


def test_crash_and_restart_of_the_database_costs_no_training(world: World) -> None:
    job_id = add_job(world.factory, add_project(world.factory, world.store), **SCRIPT)
    world.start_worker()
    world.queue.enqueue_job(job_id)
    wait_for_checkpoint(world, job_id)
    world.postgres.kill()
    world.postgres.start()
    job = check(world, job_id, "succeeded")
    assert (job.attempt, job.lost_count) == (1, 0)
    assert result_weights(world, job_id).endswith(scripted_weights(20))


def test_result_waits_for_a_database_that_is_away_longer_than_the_lease(world: World) -> None:
    job_id = add_job(world.factory, add_project(world.factory, world.store), steps=10, step_seconds=0.1)
    worker = world.start_worker()
    world.queue.enqueue_job(job_id)
    wait_for_status(world, job_id, "running")
    wait_until(lambda: bool(world.trainers_at_work()), what="the child runs")
    world.postgres.kill()
    wait_until(lambda: world.trainers_at_work() == [], what="the child finishes")
    wait_until(lambda: "database did not answer" in worker.text(), what="the worker waits")
    world.postgres.start()
    job = check(world, job_id, "succeeded")
    assert (job.attempt, job.lost_count) == (1, 0)


def test_worker_cut_off_too_long_stops_its_child_and_gives_the_job_back(world: World) -> None:
    script = SCRIPT | {"steps": 40}
    job_id = add_job(world.factory, add_project(world.factory, world.store), **script)
    world.start_worker(disconnect_seconds=1.5)
    world.queue.enqueue_job(job_id)
    wait_for_checkpoint(world, job_id)
    world.postgres.kill()
    wait_until(lambda: world.trainers_at_work() == [], what="the child is stopped")
    world.postgres.start()
    job = check(world, job_id, "succeeded")
    assert job.failed_count == 0
    assert [attempt.outcome for attempt in read_attempts(world.factory, job_id)] == ["stopped", "succeeded"]
    assert result_weights(world, job_id).endswith(scripted_weights(40))

import time

from tests.worker.scripted_jobs import add_job, read_job, wait_until
from worker.celery_app import celery_app
from worker.context import WorkerContext, get_context, install_context
from worker.recovery import start_background
from worker.tasks import run_job


def wait_for_success(context: WorkerContext, job_id: str) -> None:
    wait_until(lambda: read_job(context.factory, job_id).status == "succeeded", what=f"{job_id} succeeds")


def test_polls_find_jobs_that_nobody_announced(context: WorkerContext, project: str) -> None:
    first, second = (add_job(context.factory, project, steps=2) for _ in range(2))
    stop = start_background(context)
    for job_id in (first, second):
        wait_for_success(context, job_id)
    context.draining.set()
    stop()


def test_stopping_puts_back_what_a_poll_has_found(context: WorkerContext, project: str) -> None:
    job_id = add_job(context.factory, project, steps=1000, step_seconds=0.05)
    stop = start_background(context)
    wait_until(lambda: read_job(context.factory, job_id).phase == "training")
    context.draining.set()
    began = time.monotonic()
    stop()
    assert time.monotonic() - began < context.settings.stop_grace_seconds
    job = read_job(context.factory, job_id)
    assert (job.status, job.lost_count) == ("queued", 0)


def test_any_message_is_a_hint(context: WorkerContext, project: str) -> None:
    install_context(context)
    assert get_context() is context
    bodies: list[dict[str, object]] = [{"version": 1, "job_id": "ftjob-none"}, {"job_id": ["x"]}, {}, {"surplus": 1}]
    for body in bodies:
        job_id = add_job(context.factory, project, steps=1)
        run_job(**body)
        assert read_job(context.factory, job_id).status == "succeeded"


def test_celery_only_carries_hints() -> None:
    conf = celery_app.conf
    assert (conf.worker_pool, conf.task_acks_late, conf.worker_disable_prefetch) == ("threads", False, True)
    assert (conf.accept_content, conf.task_ignore_result, conf.result_backend) == (["json"], True, None)
    assert conf.broker_connection_max_retries is None

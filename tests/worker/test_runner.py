from tests.worker.scripted_jobs import add_job, read_events, read_job
from worker.context import WorkerContext
from worker.runner import run_available


def test_a_job_runs_to_a_published_result(context: WorkerContext, project: str) -> None:
    job_id = add_job(context.factory, project, steps=3)
    assert run_available(context, job_id) == 1

    job = read_job(context.factory, job_id)
    assert (job.status, job.trained_tokens, job.attempt) == ("succeeded", 40, 1)
    assert job.fine_tuned_model == f"ft:tiny-random:tests::{job_id[-8:]}"
    assert len(job.result_files) == 2
    messages = [event.message for event in read_events(context.factory, job_id)]
    assert messages[0] == f"Created fine-tuning job: {job_id}"
    assert "Step 3/3: training loss=0.33" in messages
    assert messages[-1] == f"The job has successfully completed: {job.fine_tuned_model}"

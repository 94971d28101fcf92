"""``python -m worker``: one worker process with the flags that the job protocol wants."""

from worker.celery_app import celery_app

if __name__ == "__main__":
    celery_app.worker_main(
        ["worker", "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO"]
    )

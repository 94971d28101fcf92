"""``python -m worker``: one worker process with the flags that the job protocol wants."""

from worker.celery_app import celery_app

FLAGS = ("--without-gossip", "--without-mingle", "--without-heartbeat")


def main() -> None:
    """Work until SIGTERM."""
    celery_app.worker_main(["worker", *FLAGS])


if __name__ == "__main__":
    main()

"""The one Celery task, and what a worker process starts and stops with."""

from contextlib import ExitStack
from typing import Any

from celery.signals import setup_logging, worker_ready, worker_shutdown, worker_shutting_down

from app.core.logging import configure_logging
from app.core.settings import get_settings
from app.queue import RUN_JOB
from worker import recovery, runner
from worker.celery_app import celery_app
from worker.context import get_context

_background = ExitStack()


def run_job(**body: Any) -> None:
    """Run the job that the message names, then whatever else is queued. Any message is harmless: it is only a hint."""
    hint = body.get("job_id")
    runner.run_available(get_context(), hint if isinstance(hint, str) else None)


def log(**_: Any) -> None:
    """Log like the rest of the service; that anybody listens keeps Celery's own set-up away."""
    configure_logging(get_settings().log_level)


def start(**_: Any) -> None:
    """Poll and reconcile from now on."""
    _background.callback(recovery.start_background(get_context()))


def drain(**_: Any) -> None:
    """Ask running children for a checkpoint; their slot threads put the jobs back and end."""
    get_context().draining.set()


def stop(**_: Any) -> None:
    """Wait for what the polls have found, then let go of the database."""
    _background.close()


celery_app.task(run_job, name=RUN_JOB, ignore_result=True)
setup_logging.connect(log)
worker_ready.connect(start)
worker_shutting_down.connect(drain)
worker_shutdown.connect(stop)

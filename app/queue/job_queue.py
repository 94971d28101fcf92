"""Sends Celery messages by name, so that the API knows neither the tasks nor anything that trains."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as BudgetExceededError
from typing import Any, Self

from celery import Celery
from kombu.exceptions import BatchPublishError, OperationalError

from app.core.failpoints import pass_failpoint
from app.core.logging import get_logger
from app.core.settings import Settings

RUN_JOB = "nlft.run_job"
QUEUE_NAME = "nlft.jobs"
MESSAGE_VERSION = 1
BUDGET_SECONDS = 1.0
PAUSE_SECONDS = 2.0
_LOG = get_logger(__name__)


def broker_options(*, read_seconds: float, connect_seconds: float) -> dict[str, Any]:
    """Return transport options under which a dead or half-open broker connection is noticed, in seconds."""
    return {
        "socket_timeout": read_seconds,
        "socket_connect_timeout": connect_seconds,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "retry_on_timeout": False,
    }


class JobQueue:
    """Announces jobs to the workers.

    One thread of its own does the sending, so that a broker that hangs costs a request no more than the budget; after
    a failure nobody tries for a moment, so that a dead broker does not slow every request.
    """

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="job-queue")
        self._down_until = 0.0

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return a queue on the settings' broker; connects on first use."""
        celery = Celery("nlft-api", broker=settings.broker_url.get_secret_value(), set_as_current=False)
        celery.conf.update(
            task_ignore_result=True,
            task_serializer="json",
            task_default_queue=QUEUE_NAME,
            broker_connection_retry=False,
            broker_transport_options=broker_options(read_seconds=BUDGET_SECONDS, connect_seconds=BUDGET_SECONDS),
        )
        return cls(celery)

    def enqueue_job(self, job_id: str) -> bool:
        """Announce one committed job; see ``enqueue_jobs``."""
        return self.enqueue_jobs([job_id])

    def enqueue_jobs(self, job_ids: Sequence[str]) -> bool:
        """Announce committed jobs; return whether the broker took all the hints within a second. Never raises.

        A lost hint is repeated by the reconcile loop, so callers need not care.
        """
        pass_failpoint("after_commit_before_dispatch")
        if time.monotonic() < self._down_until:
            return False
        sending = self._sender.submit(self._send, job_ids)
        try:
            sending.result(BUDGET_SECONDS)
        except (OperationalError, OSError, BatchPublishError, BudgetExceededError) as error:
            sending.cancel()
            self._down_until = time.monotonic() + PAUSE_SECONDS
            _LOG.warning("broker did not take hints", job_ids=job_ids, error=type(error).__name__)
            return False
        return True

    def close(self) -> None:
        """Drop the connections; a send that hangs is left behind."""
        self._sender.shutdown(wait=False, cancel_futures=True)
        self._celery.close()

    def _send(self, job_ids: Sequence[str]) -> None:
        with self._celery.producer_or_acquire() as producer, producer.batch():
            for job_id in job_ids:
                body = {"version": MESSAGE_VERSION, "job_id": job_id}
                # Told what Celery would find out for each: how to show the arguments, and that the queue is there.
                told = {"argsrepr": "()", "kwargsrepr": repr(body), "declare": ()}
                self._celery.send_task(RUN_JOB, kwargs=body, retry=False, ignore_result=True, producer=producer, **told)

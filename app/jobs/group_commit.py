"""Creates that arrive while a transaction is under way share the next one.

A transaction costs the processor as much as twenty rows in it. What a call cannot share, it does by itself afterwards:
a repetition of an earlier call, or everything once a shared transaction has failed. So nobody fails for a neighbour's
sake. An answer is sent after the commit that holds its job, and after a hint to the workers was tried.
"""

from collections.abc import Sequence

from fastapi.concurrency import run_in_threadpool
from sqlalchemy.exc import SQLAlchemyError

from app.core.failpoints import pass_failpoint
from app.core.logging import get_logger
from app.db.base import Json
from app.db.batching import Batches
from app.db.models.fine_tuning_job import FineTuningJob, JobStatus
from app.db.session import SessionFactory
from app.jobs import lifecycle
from app.jobs.admission import Admission, Admitted
from app.jobs.creation import CreateCall
from app.jobs.prediction import attach_prediction
from app.jobs.repository import limit_lock_waits
from app.jobs.wire import read_job
from app.queue import JobQueue

_PATIENCE_SECONDS = 1.0
_LOG = get_logger(__name__)


class JobCreations:
    """Creates jobs and announces them.

    Args:
        sessions: Where jobs are stored.
        queue: Where they are announced.
        admission: Decides on each call.
    """

    def __init__(self, sessions: SessionFactory, queue: JobQueue, admission: Admission) -> None:
        self._sessions = sessions
        self._queue = queue
        self._admission = admission
        self._batches: Batches[CreateCall, FineTuningJob | None] = Batches(self._create_together, name="group-commit")

    async def create(self, call: CreateCall) -> Json:
        """Return the job that ``call`` asks for as the API shows it, once it is committed.

        Raises:
            ServiceError: As ``Admission.admit``.
            SQLAlchemyError: The database failed; whether the job exists, a repetition of the call tells.
        """
        job = await self._batches.add(call)
        if job is None:
            job = await run_in_threadpool(self._create_alone, call)
        if job.prediction is None:
            await run_in_threadpool(self._predict, job)
        return read_job(job)

    def close(self) -> None:
        """End the thread; a transaction that is under way is finished."""
        self._batches.close()

    def _create_together(self, calls: Sequence[CreateCall]) -> Sequence[Admitted]:
        """Return a job or a refusal for each call, None for those that have to be created by themselves."""
        with self._sessions() as session:
            try:
                limit_lock_waits(session, seconds=_PATIENCE_SECONDS)
                admitted = self._admission.admit_together(session, calls)
            except Exception as error:  # noqa: BLE001 - each call meets its own share of it when it is alone
                session.rollback()
                _LOG.warning("shared transaction failed", calls=len(calls), error=type(error).__name__)
                return [None] * len(calls)
            pass_failpoint("before_group_commit")
            session.commit()
        self._announce([job for job in admitted if isinstance(job, FineTuningJob)])
        return admitted

    def _create_alone(self, call: CreateCall) -> FineTuningJob:
        with self._sessions() as session:
            job = self._admission.admit(session, call)
            session.commit()
        self._announce([job])
        return job

    def _predict(self, job: FineTuningJob) -> None:
        with self._sessions() as session:
            session.add(job)
            attach_prediction(session, self._admission.store, job)

    def _announce(self, jobs: Sequence[FineTuningJob]) -> None:
        """Send committed jobs' hints to the workers, unless an earlier arrival of a call has done so. Never fails.

        Hints save time only: a job whose hint, or whose note that it went out, is lost is announced again.
        """
        due = [job.id for job in jobs if job.status == JobStatus.QUEUED and job.dispatched_at is None]
        if not due or not self._queue.enqueue_jobs(due):
            return
        try:
            with self._sessions() as session:
                lifecycle.mark_dispatched(session, due)
                session.commit()
        except SQLAlchemyError as error:
            _LOG.warning("hints not noted", count=len(due), error=type(error).__name__)

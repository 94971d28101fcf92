"""Runs jobs, and previews between them: claim, prepare, train in a child, settle. The calling thread is the slot.

Where the operator allows it, several jobs on one base model are claimed together and trained in one child.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from obstore.exceptions import BaseError as StorageError
from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.completions.ledger import JobLedger
from app.core.failpoints import pass_failpoint
from app.core.logging import get_logger
from app.db.models import JobAttempt, JobPhase, JobStatus
from app.db.session import transaction
from app.jobs import checkpoints, lifecycle
from app.jobs.attempts import AttemptRecord, JobError, RetryPolicy
from app.jobs.checkpoints import ResumePoint
from app.jobs.leases import Lease, LeaseLostError
from app.jobs.lifecycle import Room
from app.storage import BlobDigestError, BlobNotFoundError
from worker import patience, publishing, supervision
from worker.adapter_check import BadOutputError
from worker.answering import AnswerDesk
from worker.context import WorkerContext
from worker.devices import Held, offer_devices
from worker.outcomes import UNEXPECTED, Outcome, Verdict, classify
from worker.previews.runs import run_next
from worker.progress import ProgressBoard
from worker.renewal import LeaseKeeper
from worker.reporter import Reporter
from worker.shared_trainer import Share, TrainerGroup
from worker.slots import Slot, take_slot
from worker.supervision import Trainer, Watch, start_child
from worker.training.errors import CheckpointError
from worker.training.events import MessageEvent, ResultEvent
from worker.workspace import Workspace, prepare

_NOT_STARTED = JobError("internal_error", "The job could not be started: its inputs or its worker failed.")
_LOG = get_logger(__name__)


def run_available(context: WorkerContext, hint: str | None = None) -> int:
    """Run the hinted job and then whatever else is queued, while this host has a free slot.

    A preview that waits longer than every job comes first. The warm process of the previews makes room for a trainer.

    Returns:
        How many attempts were made, at jobs and at previews; 0 when every slot is taken, nothing is claimable or the
        process is draining.
    """
    attempts = 0
    with take_slot(context.settings.workspaces, context.settings.worker_slots) as slot:
        while slot is not None and not context.draining.is_set():
            if run_next(context):
                attempts += 1
                continue
            claimed = _claim(context, hint)
            if claimed is None:
                break
            pass_failpoint("after_claim")
            leases, held = claimed
            try:
                context.previews.make_room()
                _attempt(context, leases, slot, held)
            finally:
                held.release()
            # Now, and not while the job runs: its memory and its cores are free.
            if not context.draining.is_set():
                context.standby.prepare()
            attempts, hint = attempts + len(leases), None
    return attempts


def _attempt(context: WorkerContext, leases: Sequence[Lease], slot: Slot, held: Held) -> None:
    if len(leases) == 1:
        Attempt(context, leases[0], slot.folder, partial(start_child, context, slot, held)).run()
        return

    def attempt(lease: Lease, share: Share) -> None:
        Attempt(context, lease, slot.folder, share.start).run()

    TrainerGroup(context, slot, held).run([partial(attempt, lease) for lease in leases])


def _claim(context: WorkerContext, hint: str | None) -> tuple[Sequence[Lease], Held] | None:
    """Claim a job together with its devices, and those that will share its trainer."""
    settings = context.settings
    try:
        with offer_devices(settings.workspaces, settings.devices) as offer:
            room = Room(offer.free, offer.total)
            with transaction(context.factory) as session:
                leases = _claim_together(context, session, hint, room)
            return (leases, offer.take(leases[0].n_gpus)) if leases else None
    except SQLAlchemyError as error:
        # Had the claim been committed and its reply lost, its lease runs out and the reaper takes it back.
        _LOG.warning("could not claim", error=type(error).__name__)
        return None


def _claim_together(context: WorkerContext, session: Session, hint: str | None, room: Room) -> list[Lease]:
    """Claim the next job and, as far as the operator lets jobs share a base model, those that may join it."""
    settings = context.settings
    # Another device would have a job to itself. Who loses an attempt in company needs one more to be tried alone.
    has_company = room.free == 1 and settings.max_lost_attempts > 0
    most = settings.worker_jobs_per_base if has_company else 1
    claim = partial(lifecycle.claim, session, worker=context.name, lease_seconds=settings.lease_seconds, room=room)
    leases = list[Lease]()
    lease = claim(hint=hint)
    while lease is not None:
        leases.append(lease)
        lease = claim(beside=leases[0]) if len(leases) < most else None
    return leases


class Attempt:
    """One attempt of one job, from claim to its last transaction.

    Args:
        context: The worker's connections.
        lease: The claim.
        folder: Where its workspace is made.
        start: Starts the trainer of a workspace; may raise OSError.
    """

    def __init__(
        self, context: WorkerContext, lease: Lease, folder: Path, start: Callable[[Workspace], Trainer]
    ) -> None:
        self._context = context
        self._lease = lease
        self._folder = folder
        self._start = start
        self._logger = _LOG.bind(job_id=lease.job_id, attempt=lease.attempt)
        self._board = ProgressBoard()
        self._keeper = LeaseKeeper(context, lease, self._board)
        self._patience_ends: float | None = None

    def run(self) -> None:
        """Train and settle. Nothing escapes: what this attempt cannot settle, the reaper does."""
        self._logger.info("attempt begins")
        with self._keeper.running():
            try:
                self._settle(self._train())
            except LeaseLostError:
                self._logger.warning("attempt fenced")
            except patience.GaveUpError:
                self._logger.warning("attempt left to the reaper")
            except Exception:
                self._logger.exception("attempt broke")

    def _train(self) -> Outcome:
        folder = self._folder / f"{self._lease.job_id}-{self._lease.attempt}"
        try:
            return self._supervise(prepare(self._context, self._lease, folder))
        except (BlobNotFoundError, BlobDigestError, StorageError, OSError, SQLAlchemyError):
            self._logger.exception("could not prepare or run")
            return Outcome(Verdict.LOST, AttemptRecord(Verdict.LOST), _NOT_STARTED)
        except ValidationError:
            self._logger.exception("stored spec is unusable")
            return Outcome(Verdict.FAIL, AttemptRecord(Verdict.FAIL), UNEXPECTED)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _supervise(self, workspace: Workspace) -> Outcome:
        reporter = Reporter(
            self._context,
            self._lease,
            board=self._board,
            folder=workspace.folder,
            give_up=self._give_up,
            on_cancel=self._keeper.cancel_requested.set,
        )
        ledger = JobLedger(self._context.factory, workspace.project_id, self._lease.job_id)
        desk = AnswerDesk(self._context.endpoints, ledger)
        watch = Watch(self._context, self._lease.job_id, self._keeper, self._board, reporter, desk)
        try:
            trainer = self._start(workspace)
            if trainer.neighbours:
                reporter.accept(MessageEvent("info", _tell_company(trainer.neighbours)))
            end = supervision.train(watch, trainer)
        finally:
            reporter.close()
        outcome = classify(end)
        if outcome.verdict is Verdict.PUBLISH and end.result is not None:
            return self._publish(workspace.folder, end.result, outcome)
        if outcome.error.code == CheckpointError.code and workspace.resume is not None:
            return self._discard(workspace.resume, outcome)
        return outcome

    def _publish(self, folder: Path, result: ResultEvent, outcome: Outcome) -> Outcome:
        self._board.enter(JobPhase.PUBLISHING)
        try:
            collected = publishing.collect_result(self._context, folder, result, self._give_up)
            visible = publishing.publish(self._context, self._lease, collected, outcome.record, give_up=self._give_up)
        except BadOutputError as error:
            self._logger.warning("outputs are unusable", error=str(error))
            return outcome.turned(Verdict.FAILED)
        except patience.GaveUpError:
            return outcome.turned(Verdict.REQUEUE)
        return outcome if visible else outcome.turned(Verdict.CANCEL)

    def _discard(self, resume: ResumePoint, outcome: Outcome) -> Outcome:
        """A checkpoint that the trainer refuses is no reason to fail the job: go on from the one before."""

        def write(session: Session) -> None:
            checkpoints.discard(session, self._lease, resume.checkpoint_id)

        patience.commit(self._context.factory, write, give_up=self._give_up)
        return outcome.turned(Verdict.LOST)

    def _settle(self, outcome: Outcome) -> None:
        if outcome.verdict in {Verdict.PUBLISH, Verdict.ABANDON}:
            self._logger.info("attempt ended", outcome=outcome.record.outcome)
            return
        status = patience.commit(
            self._context.factory, lambda session: self._close(session, outcome), give_up=self._give_up
        )
        self._logger.info("attempt ended", status=status, outcome=outcome.record.outcome)

    def _close(self, session: Session, outcome: Outcome) -> JobStatus:
        policy = RetryPolicy.from_settings(self._context.settings)
        match outcome.verdict:
            case Verdict.CANCEL:
                lifecycle.cancelled(session, self._lease, outcome.record)
                return JobStatus.CANCELLED
            case Verdict.FAIL:
                lifecycle.fail(session, self._lease, outcome.error, outcome.record)
                return JobStatus.FAILED
            case Verdict.REQUEUE:
                return lifecycle.requeue(session, self._lease, outcome.record)
            case Verdict.STALLED if _stalled_before(session, self._lease):
                policy = replace(policy, max_lost=0)
        return lifecycle.retry(session, self._lease, outcome.error, outcome.record, policy=policy)

    def _give_up(self) -> bool:
        """Stop waiting for database or store: the attempt is no longer ours, not wanted, or the process must go."""
        if self._keeper.lost.is_set() or self._keeper.cancel_requested.is_set():
            return True
        if not self._context.draining.is_set():
            return False
        now = time.monotonic()
        self._patience_ends = self._patience_ends or now + self._context.settings.stop_grace_seconds
        return now > self._patience_ends


def _tell_company(neighbours: int) -> str:
    return f"Trained beside {neighbours} other job(s) of this project on one copy of the base model."


def _stalled_before(session: Session, lease: Lease) -> bool:
    earlier = select(func.count()).where(JobAttempt.job_id == lease.job_id, JobAttempt.outcome == Verdict.STALLED)
    return session.scalars(earlier).one() > 0

"""From how a child ended to what becomes of its job.

what happened                              verdict
result and exit 0                          publish
10, 11 (data, configuration), 12 (memory)  fail: the same input would end the same way
1, other codes, exit 0 without a result    failed: counted, repeated while the operator's allowance lasts
a signal that is not ours                  lost: counted apart, repeated
stopped by us to drain or while cut off    requeue, uncounted
no sign of life                            stalled: killed, repeated once
cancelled by us                            cancel
the lease went to somebody else            abandon: leave no trace
memory, failed or silent beside neighbours lost: repeated alone, where nobody else can be at fault
"""

import signal
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from app.jobs.attempts import AttemptRecord, JobError
from worker.training.errors import ExitCode
from worker.training.events import ErrorEvent, ResultEvent


class StopReason(StrEnum):
    """Why the parent ended a child."""

    CANCEL = "cancelled"
    DRAIN = "stopped"
    DISCONNECTED = "disconnected"
    STALLED = "stalled"
    LOST = "fenced"


class Verdict(StrEnum):
    """What to do with the job; the values of ``FAILED``, ``LOST`` and ``STALLED`` are kept as an attempt's outcome."""

    PUBLISH = "succeeded"
    FAIL = "refused"
    FAILED = "failed"
    LOST = "lost"
    STALLED = "stalled"
    REQUEUE = "stopped"
    CANCEL = "cancelled"
    ABANDON = "fenced"


@dataclass(frozen=True, slots=True)
class ChildEnd:
    """How a child ended: ``exit_code`` is negative for a signal; the last events it sent, if any.

    ``neighbours`` counts the other attempts that it trained for.
    """

    exit_code: int
    reason: StopReason | None = None
    result: ResultEvent | None = None
    error: ErrorEvent | None = None
    log_tail: str = ""
    neighbours: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict with what is to be recorded."""

    verdict: Verdict
    record: AttemptRecord
    error: JobError

    def turned(self, verdict: Verdict) -> Self:
        """Return the same end under another verdict, which a later step has found."""
        return replace(self, verdict=verdict, record=replace(self.record, outcome=verdict))


UNEXPECTED = JobError(
    "internal_error", "The trainer ended unexpectedly. The operator finds details in the worker's log."
)
_STALLED = JobError("stalled", "Training made no progress for too long and was stopped.")
_SHARED = JobError("trainer_lost", "The process that trained this job beside others died or made no progress.")
_MEMORY_HINT = "Use fewer tokens per row, a smaller adapter or a smaller base model."
_USER_ERRORS = frozenset({ExitCode.DATA, ExitCode.CONFIGURATION, ExitCode.OUT_OF_MEMORY})


def classify(end: ChildEnd) -> Outcome:
    """Return what becomes of the job."""
    verdict = _verdict(end)
    if end.neighbours and _may_be_theirs(end, verdict):
        verdict = Verdict.LOST
    return Outcome(verdict, AttemptRecord(verdict, end.exit_code, end.log_tail or None), _error(end, verdict))


def _may_be_theirs(end: ChildEnd, verdict: Verdict) -> bool:
    """Return whether neighbours may have brought about a bad end."""
    is_memory = verdict is Verdict.FAIL and end.exit_code == ExitCode.OUT_OF_MEMORY
    return is_memory or verdict in {Verdict.FAILED, Verdict.STALLED}


def _verdict(end: ChildEnd) -> Verdict:
    by_reason = {
        StopReason.LOST: Verdict.ABANDON,
        StopReason.CANCEL: Verdict.CANCEL,
        StopReason.STALLED: Verdict.STALLED,
    }
    if end.reason in by_reason:
        return by_reason[end.reason]
    if end.exit_code == ExitCode.DONE and end.result is not None:
        return Verdict.PUBLISH
    if end.exit_code in _USER_ERRORS:
        return Verdict.FAIL
    if end.reason is not None:
        return Verdict.REQUEUE
    stopped_unasked = end.exit_code in {ExitCode.STOPPED, ExitCode.CANCELLED}
    return Verdict.LOST if end.exit_code < 0 or stopped_unasked else Verdict.FAILED


def _error(end: ChildEnd, verdict: Verdict) -> JobError:
    if verdict is Verdict.STALLED:
        return _STALLED
    if end.error is not None:
        event = end.error
        return JobError(event.code, event.message.replace("\x00", ""), event.param, event.data)
    if end.neighbours:
        return _SHARED
    if end.exit_code == ExitCode.OUT_OF_MEMORY:
        return JobError("out_of_memory", f"The device ran out of memory. {_MEMORY_HINT}")
    if end.exit_code == -signal.SIGKILL:
        message = f"The trainer was killed, most likely because the host ran out of memory. {_MEMORY_HINT}"
        return JobError("trainer_killed", message)
    return UNEXPECTED

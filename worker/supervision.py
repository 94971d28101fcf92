"""Watches one child from start to death: carries its words out, carries requests to stop in."""

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from app.core.devices import visible_devices
from app.core.logging import get_logger
from app.core.settings import Settings
from worker.answering import AnswerDesk
from worker.child import SCRATCH_DIR, Child, build_environment, several
from worker.context import WorkerContext
from worker.devices import Held
from worker.outcomes import ChildEnd, StopReason
from worker.progress import ProgressBoard
from worker.renewal import LeaseKeeper
from worker.reporter import Reporter
from worker.slots import Slot
from worker.training.estimation.pace import JOBS_ON_BASE
from worker.training.events import CANCEL, STOP, CompletionRequest, ErrorEvent, ResultEvent, decode
from worker.workspace import Workspace

TICK_SECONDS = 0.1
# Without a first step loading and compiling may still be going on: twice the patience.
_FIRST_STEP_FACTOR = 2
_LOG = get_logger(__name__)


class Trainer(Protocol):
    """What is watched: a ``Child``, or a ``shared_trainer.Share`` of one. Used by one thread."""

    @property
    def neighbours(self) -> int:
        """How many other attempts the process trains for."""
        ...

    @property
    def exit_code(self) -> int:
        """Exit status, negative for a signal; valid after ``finish``."""
        ...

    @property
    def log_tail(self) -> str:
        """The end of what the process printed."""
        ...

    def send(self, line: bytes) -> None:
        """Write a line of the control protocol; never blocks."""
        ...

    def read(self, timeout: float) -> Iterator[bytes]:
        """Wait up to ``timeout`` seconds for event lines, then yield what is there."""
        ...

    def has_exited(self) -> bool:
        """Return whether the end has come."""
        ...

    def kill(self) -> None:
        """End it without asking."""
        ...

    def finish(self) -> list[bytes]:
        """See to it that the end has come and return the event lines not read yet."""
        ...


@dataclass
class Watch:
    """The state of watching one child.

    Attributes:
        context: Settings, and whether the process is draining.
        job_id: Whose child it is.
        keeper: Cancel requests, and whether the lease is still ours.
        board: When the child last gave a sign of life.
        reporter: Takes the child's events.
        desk: Takes the child's questions to endpoints.
        reason: Why we asked the child to end, once we did.
        kill_at: Monotonic time at which asking becomes killing.
    """

    context: WorkerContext
    job_id: str
    keeper: LeaseKeeper
    board: ProgressBoard
    reporter: Reporter
    desk: AnswerDesk
    reason: StopReason | None = None
    kill_at: float = float("inf")
    result: ResultEvent | None = None
    error: ErrorEvent | None = None
    undecodable: int = field(default=0)

    def take(self, lines: Iterable[bytes]) -> None:
        """Hand the child's event lines on; a line that is no event is counted and dropped."""
        for line in lines:
            try:
                event = decode(line)
            except msgspec.DecodeError:
                self.undecodable += 1
                continue
            self.reporter.accept(event)
            if isinstance(event, ResultEvent):
                self.result = event
            elif isinstance(event, ErrorEvent):
                self.error = event
            elif isinstance(event, CompletionRequest):
                self.desk.ask(event)

    def answer(self, trainer: Trainer) -> None:
        """Give the child what endpoints have answered. While it waits for us it cannot give signs of life."""
        for line in self.desk.take_answers():
            trainer.send(line)
            self.board.touch()
        if self.desk.is_waiting:
            self.board.touch()

    def why_stop(self) -> StopReason | None:
        """Return the most pressing reason to end the child now, if any."""
        settings = self.context.settings
        if self.keeper.lost.is_set():
            return StopReason.LOST
        if self.keeper.cancel_requested.is_set():
            return StopReason.CANCEL
        if self.context.draining.is_set():
            return StopReason.DRAIN
        if self.board.silence_seconds() > self._longest_silence(settings):
            return StopReason.STALLED
        if self.keeper.disconnected_seconds() > settings.disconnect_seconds:
            return StopReason.DISCONNECTED
        return None

    def _longest_silence(self, settings: Settings) -> float:
        return settings.stall_seconds * (1 if self.board.has_stepped() else _FIRST_STEP_FACTOR)


def start_child(context: WorkerContext, slot: Slot, devices: Held, workspace: Workspace) -> Child:
    """Give ``workspace`` to the child that waits, if it suits, else to a new one; the calling thread must outlive it.

    Raises:
        OSError: It cannot be started.
    """
    scratch = workspace.folder / SCRATCH_DIR
    environment = build_environment(os.environ, threads=workspace.threads, scratch=scratch)
    environment |= visible_devices(devices.names)
    inherited = (slot.descriptor, *devices.descriptors)
    is_ready = context.standby.is_ready()
    child = context.standby.take(workspace.folder, environment, inherited) if workspace.n_gpus == 1 else None
    name = workspace.folder.name
    _LOG.info("trainer starts", workspace=name, has_waited=child is not None, was_ready=is_ready and child is not None)
    return child or Child.start(
        several(context.child_command, workspace.n_gpus),
        workspace=workspace.folder,
        environment=environment,
        inherited=inherited,
    )


def train(watch: Watch, trainer: Trainer) -> ChildEnd:
    """Watch ``trainer`` until it has ended for good. Blocks."""
    try:
        while not trainer.has_exited():
            watch.take(trainer.read(TICK_SECONDS))
            watch.answer(trainer)
            _press(watch, trainer)
    finally:
        rest = trainer.finish()
        watch.desk.close()
    watch.take(rest)
    if summary := watch.desk.summary():
        watch.reporter.accept(summary)
    if watch.undecodable:
        _LOG.warning("lines that are no events", job_id=watch.job_id, lines=watch.undecodable)
    result = watch.result and _count_jobs(watch.result, 1 + trainer.neighbours)
    return ChildEnd(trainer.exit_code, watch.reason, result, watch.error, trainer.log_tail, trainer.neighbours)


def _count_jobs(result: ResultEvent, jobs: int) -> ResultEvent:
    """Return ``result`` with the number of ``jobs`` whose process its figures describe, where they are several."""
    if jobs == 1:
        return result
    return msgspec.structs.replace(result, usage={**result.usage, JOBS_ON_BASE: jobs})


def _press(watch: Watch, trainer: Trainer) -> None:
    """Ask the child to end when there is a reason, kill it when asking did not help or makes no sense."""
    reason = watch.why_stop()
    if reason is not None and reason is not watch.reason and watch.reason is not StopReason.LOST:
        watch.reason = reason
        if reason in {StopReason.LOST, StopReason.STALLED}:
            watch.kill_at = 0.0
        else:
            trainer.send(CANCEL if reason is StopReason.CANCEL else STOP)
            watch.kill_at = min(watch.kill_at, time.monotonic() + watch.context.settings.stop_grace_seconds)
    if time.monotonic() >= watch.kill_at:
        trainer.kill()

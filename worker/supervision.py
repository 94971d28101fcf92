"""Watches one child from start to death: carries its words out, carries requests to stop in."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from app.core.devices import visible_devices
from app.core.logging import get_logger
from app.core.settings import Settings
from worker.answering import AnswerDesk
from worker.child import Child, build_environment, several
from worker.context import WorkerContext
from worker.devices import Held
from worker.outcomes import ChildEnd, StopReason
from worker.progress import ProgressBoard
from worker.renewal import LeaseKeeper
from worker.reporter import Reporter
from worker.slots import Slot
from worker.training.events import CANCEL, STOP, CompletionRequest, ErrorEvent, ResultEvent, decode
from worker.workspace import SCRATCH_DIR, Workspace

TICK_SECONDS = 0.1
# Without a first step loading and compiling may still be going on: twice the patience.
_FIRST_STEP_FACTOR = 2
_LOG = get_logger(__name__)


@dataclass
class Watch:
    """The state of watching one child.

    Attributes:
        context: Settings, and whether the process is draining.
        keeper: Cancel requests, and whether the lease is still ours.
        board: When the child last gave a sign of life.
        reporter: Takes the child's events.
        desk: Takes the child's questions to endpoints.
        reason: Why we asked the child to end, once we did.
        kill_at: Monotonic time at which asking becomes killing.
    """

    context: WorkerContext
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

    def answer(self, child: Child) -> None:
        """Give the child what endpoints have answered. While it waits for us it cannot give signs of life."""
        for line in self.desk.take_answers():
            child.send(line)
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


def train(watch: Watch, workspace: Workspace, slot: Slot, devices: Held) -> ChildEnd:
    """Run the child in ``workspace`` until it and its whole group are dead. Blocks the thread that owns the child."""
    scratch = workspace.folder / SCRATCH_DIR
    environment = build_environment(os.environ, threads=workspace.threads, scratch=scratch)
    child = Child.start(
        several(watch.context.child_command, workspace.n_gpus),
        workspace=workspace.folder,
        environment=environment | visible_devices(devices.names),
        inherited=(slot.descriptor, *devices.descriptors),
    )
    try:
        while not child.has_exited():
            watch.take(child.read(TICK_SECONDS))
            watch.answer(child)
            _press(watch, child)
    finally:
        rest = child.finish()
        watch.desk.close()
    watch.take(rest)
    if summary := watch.desk.summary():
        watch.reporter.accept(summary)
    if watch.undecodable:
        _LOG.warning("lines that are no events", workspace=workspace.folder.name, lines=watch.undecodable)
    return ChildEnd(child.exit_code, watch.reason, watch.result, watch.error, child.log_tail)


def _press(watch: Watch, child: Child) -> None:
    """Ask the child to end when there is a reason, kill it when asking did not help or makes no sense."""
    reason = watch.why_stop()
    if reason is not None and reason is not watch.reason and watch.reason is not StopReason.LOST:
        watch.reason = reason
        if reason in {StopReason.LOST, StopReason.STALLED}:
            watch.kill_at = 0.0
        else:
            child.send(CANCEL if reason is StopReason.CANCEL else STOP)
            watch.kill_at = min(watch.kill_at, time.monotonic() + watch.context.settings.stop_grace_seconds)
    if time.monotonic() >= watch.kill_at:
        child.kill()

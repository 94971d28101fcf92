"""A warm preview process and the thread that owns it.

The thread outlives every slot, so the process does too: it keeps its base model from one preview to the next, until it
has been idle for long, a trainer needs the memory, or the worker goes.
"""

import os
import queue
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from app.core.devices import visible_devices
from app.core.logging import get_logger
from app.core.settings import Settings
from worker.child import SCRATCH_DIR, Child, build_environment
from worker.locked_folder import LockedFolder, take_folder
from worker.training.previews.protocol import ADAPTERS_DIR, CANCELLED, REQUESTS_DIR, Answered, Refused, Reply, decode

TICK_SECONDS = 0.05
CANCEL_SECONDS = 5.0
BROKEN = "broken"
TIMEOUT = "preview_timeout"
_LOG = get_logger(__name__)

Fill = Callable[[Path], bytes]


@dataclass
class Task:
    """One preview on its way through the process.

    Attributes:
        fill: Puts files that the request needs into the folder that it is given and returns the request as JSON.
        seconds: Longest computation.
        cancelled: Set by whoever no longer wants the answer.
        done: Set once ``answer`` or ``refusal`` is there.
    """

    fill: Fill
    seconds: float
    cancelled: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    answer: bytes | None = None
    refusal: Refused | None = None


class PreviewHost:
    """Runs previews one at a time. Starts its thread with the first, and its process when it is needed.

    Args:
        settings: Time limits, threads, where folders go.
        command: Program that answers; the folder's path is appended.
    """

    def __init__(self, settings: Settings, command: tuple[str, ...]) -> None:
        self._settings = settings
        self._command = command
        self._tasks: queue.SimpleQueue[Task | threading.Event | None] = queue.SimpleQueue()
        self._busy = threading.Lock()
        self._thread: threading.Thread | None = None
        self._folder: LockedFolder | None = None
        self._child: Child | None = None
        self._number = 0
        self._used_at = 0.0

    def reserve(self) -> bool:
        """Return whether the process is free, and now the caller's until ``free``."""
        return self._busy.acquire(blocking=False)

    def free(self) -> None:
        """Let others have the process."""
        self._busy.release()

    def submit(self, task: Task) -> None:
        """Begin with ``task``; only while the process is reserved."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="previews", daemon=True)
            self._thread.start()
        self._tasks.put(task)

    def make_room(self) -> None:
        """End an idle process, because somebody else needs its memory; one that is at work stays."""
        if self._thread is None or not self.reserve():
            return
        try:
            ended = threading.Event()
            self._tasks.put(ended)
            ended.wait()
        finally:
            self.free()

    def close(self) -> None:
        """End process and thread, after the preview in progress."""
        if self._thread is not None:
            self._tasks.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while True:
            with suppress(queue.Empty):
                task = self._tasks.get(timeout=1.0 if self._child is None else TICK_SECONDS * 5)
                if task is None:
                    self._end()
                    return
                if isinstance(task, threading.Event):
                    self._end()
                    task.set()
                else:
                    self._work(task)
            self._rest()

    def _rest(self) -> None:
        """Keep the pipes of the idle process empty; end it when it has died, or nobody has asked it for long."""
        if self._child is None:
            return
        list(self._child.read(0))
        if self._child.has_exited() or time.monotonic() - self._used_at > self._settings.preview_idle_seconds:
            self._end()

    def _work(self, task: Task) -> None:
        self._number += 1
        try:
            reply = self._answer(self._number, task)
            if isinstance(reply, Answered) and self._folder is not None:
                task.answer = (self._folder.path / reply.path).read_bytes()
                (self._folder.path / reply.path).unlink()
            elif isinstance(reply, Refused):
                task.refusal = reply
        except Exception:  # noqa: BLE001 - whoever waits for the task must hear of it
            _LOG.exception("preview broke")
            self._end()
        finally:
            if self._folder is not None:
                (self._folder.path / REQUESTS_DIR / f"{self._number}.json").unlink(missing_ok=True)
            if task.answer is None and task.refusal is None:
                task.refusal = Refused(self._number, BROKEN, "The process that computed the preview ended.")
            self._used_at = time.monotonic()
            task.done.set()

    def _answer(self, number: int, task: Task) -> Reply | None:
        """Return the reply to ``task``, None when the process died over it."""
        child, folder = self._start()
        adapters = folder.path / ADAPTERS_DIR
        shutil.rmtree(adapters, ignore_errors=True)
        adapters.mkdir()
        (folder.path / REQUESTS_DIR / f"{number}.json").write_bytes(task.fill(adapters))
        child.send(f"preview {number}\n".encode())
        deadline, kill_at, is_late = time.monotonic() + task.seconds, float("inf"), False
        while not child.has_exited():
            for line in child.read(TICK_SECONDS):
                with suppress(msgspec.DecodeError):
                    reply = decode(line)
                    if reply.number == number:
                        return _late(number) if is_late else reply
            now = time.monotonic()
            is_late = is_late or now > deadline
            if kill_at == float("inf") and (is_late or task.cancelled.is_set()):
                child.send(f"cancel {number}\n".encode())
                kill_at = now + CANCEL_SECONDS
            if now > kill_at:
                self._end()
                return _late(number) if is_late else Refused(number, CANCELLED, "The preview was cancelled.")
        _LOG.warning("preview process ended", log=child.log_tail[-2000:])
        self._end()
        return None

    def _start(self) -> tuple[Child, LockedFolder]:
        if self._child is not None and self._folder is not None and not self._child.has_exited():
            return self._child, self._folder
        self._end()
        self._folder = folder = take_folder(self._settings.workspaces, "preview", (REQUESTS_DIR, SCRATCH_DIR))
        threads = self._settings.trainer_threads()
        self._child = Child.start(
            self._command,
            workspace=folder.path,
            environment=build_environment(os.environ, threads=threads, scratch=folder.path / SCRATCH_DIR)
            | visible_devices(self._settings.devices.names[:1]),
            inherited=(folder.descriptor,),
        )
        return self._child, folder

    def _end(self) -> None:
        if self._child is not None:
            self._child.finish()
            self._child = None
        if self._folder is not None:
            self._folder.remove()
            self._folder = None


def _late(number: int) -> Refused:
    return Refused(number, TIMEOUT, "The preview took too long and was stopped; send fewer or shorter examples.")

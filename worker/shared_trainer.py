"""One trainer process for several attempts, each of which uses its share like a child of its own.

The process belongs to the thread that calls ``TrainerGroup.run``, as a ``Child`` must: that thread reads and writes the
pipes. The attempts run on threads of their own. What a lone child would be killed for cuts a share off: nobody hears
that run any more, and its neighbours go on. The process is killed once it has no share left.
"""

import queue
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from app.core.logging import get_logger
from worker.child import SCRATCH_DIR, Child
from worker.context import WorkerContext
from worker.devices import Held
from worker.slots import Slot
from worker.supervision import TICK_SECONDS, start_child
from worker.training.events import CANCEL
from worker.training.group_protocol import number_line, read_end, split_line, write_group
from worker.workspace import Workspace

_FOLDER = "group"
_LOG = get_logger(__name__)


class Share:
    """What one attempt has of the process: a ``supervision.Trainer`` for the attempt's thread.

    Attributes:
        exit_code: That of its run, or of the process where the run could not say one; -9 once it is cut off.
    """

    def __init__(self, group: "TrainerGroup") -> None:
        self.exit_code: int = -signal.SIGKILL
        self._group = group
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._is_over = threading.Event()

    def start(self, workspace: Workspace) -> "Share":
        """Wait until all attempts are here or have withdrawn and the process runs; return this share of it.

        Raises:
            OSError: The process could not be started.
        """
        self._group.join(self, workspace)
        return self

    @property
    def neighbours(self) -> int:
        """How many other attempts the process trains for."""
        return self._group.size - 1

    @property
    def log_tail(self) -> str:
        """The end of what the process printed, for all of its attempts."""
        return self._group.log_tail

    def send(self, line: bytes) -> None:
        """Write a line of the control protocol."""
        self._group.send(self, line)

    def read(self, timeout: float) -> Iterator[bytes]:
        """Wait up to ``timeout`` seconds for event lines, then yield what is there."""
        with suppress(queue.Empty):
            yield self._lines.get(timeout=timeout)
            while True:
                yield self._lines.get_nowait()

    def has_exited(self) -> bool:
        """Return whether the run has ended, with or without its process, or was cut off."""
        return self._is_over.is_set()

    def kill(self) -> None:
        """Cut the run off."""
        self.send(CANCEL)
        self._is_over.set()

    def finish(self) -> list[bytes]:
        """Cut the run off unless it has ended, and return the event lines not read yet."""
        if not self._is_over.is_set():
            self.kill()
        return list(self.read(0))

    def take(self, line: bytes) -> None:
        """Take an event line from the thread of the process."""
        if not self._is_over.is_set():
            self._lines.put(line)

    def end(self, exit_code: int) -> None:
        """Note how the run has ended, unless that is settled."""
        if not self._is_over.is_set():
            self.exit_code = exit_code
            self._is_over.set()


class TrainerGroup:
    """Runs attempts on one process.

    Args:
        context: The worker's settings.
        slot: The slot, whose folder holds the attempts' workspaces too.
        devices: What the process computes on.
    """

    def __init__(self, context: WorkerContext, slot: Slot, devices: Held) -> None:
        self._context = context
        self._slot = slot
        self._folder = slot.folder / _FOLDER
        self._devices = devices
        self._news = threading.Condition()
        self._awaited: set[Share] = set()
        self._joined: dict[Share, Workspace] = {}
        self._outgoing: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._child: Child | None = None
        self._is_closed = False

    @property
    def size(self) -> int:
        """Attempts that the process was started for."""
        return len(self._joined)

    @property
    def log_tail(self) -> str:
        """The end of what the process printed."""
        return "" if self._child is None else self._child.log_tail

    def run(self, works: Sequence[Callable[[Share], None]]) -> None:
        """Do ``works``, each with a share, on threads of their own; start the process once each has joined or ended.

        Returns when the process is dead and all works are done. Blocks the thread that owns the process.
        """
        shares = [Share(self) for _ in works]
        self._awaited.update(shares)
        threads: list[threading.Thread] = []
        try:
            for share, work in zip(shares, works, strict=True):
                threads.append(threading.Thread(target=self._do, args=(share, work), name="attempt", daemon=True))
                threads[-1].start()
            with self._news:
                self._news.wait_for(lambda: not self._awaited)
            if self._joined:
                self._conduct()
        except OSError:
            _LOG.exception("could not run the process of several jobs")
        finally:
            with self._news:
                self._is_closed = True
                self._news.notify_all()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            shutil.rmtree(self._folder, ignore_errors=True)

    def join(self, share: Share, workspace: Workspace) -> None:
        """Have the process train ``workspace``; wait for it; see ``Share.start``."""
        with self._news:
            self._joined[share] = workspace
            self._awaited.discard(share)
            self._news.notify_all()
            self._news.wait_for(lambda: self._child is not None or self._is_closed)
            if self._child is None:
                raise OSError("the process of several jobs could not be started")

    def send(self, share: Share, line: bytes) -> None:
        """Have a line of the control protocol written for ``share``."""
        self._outgoing.put(number_line(list(self._joined).index(share), line))

    def _do(self, share: Share, work: Callable[[Share], None]) -> None:
        try:
            work(share)
        finally:
            with self._news:
                self._awaited.discard(share)
                self._news.notify_all()
            if share in self._joined:
                share.finish()  # the process must not outlive the last attempt

    def _conduct(self) -> None:
        """Carry lines between the process and the shares until it has died or none is left."""
        shares = list(self._joined)
        child = self._start()
        try:
            while not child.has_exited() and not all(share.has_exited() for share in shares):
                self._hand_out(child.read(TICK_SECONDS), shares)
                while not self._outgoing.empty():
                    child.send(self._outgoing.get())
        finally:
            rest = child.finish()
            self._hand_out(rest, shares)
            for share in shares:
                share.end(child.exit_code)

    def _start(self) -> Child:
        (self._folder / SCRATCH_DIR).mkdir(parents=True)
        workspaces = list(self._joined.values())
        write_group(self._folder, [workspace.folder for workspace in workspaces])
        own = replace(workspaces[0], folder=self._folder, resume=None)
        with self._news:
            self._child = start_child(self._context, self._slot, self._devices, own)
            self._news.notify_all()
        return self._child

    def _hand_out(self, lines: Iterable[bytes], shares: Sequence[Share]) -> None:
        for line in lines:
            try:
                number, rest = split_line(line)
                share = shares[number]
            except (ValueError, IndexError):
                _LOG.warning("a line that belongs to no run")
                continue
            status = read_end(rest)
            if status is None:
                share.take(rest)
            else:
                share.end(status)

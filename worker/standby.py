"""The trainer that waits for the next job, so that no job waits for its trainer's imports.

It is started like every trainer, has imported what a run needs, and waits on its control socket. A claimed job is
handed to it with what depends on the job: workspace, a few variables, the locks of slot and devices. It runs that one
job and ends; between jobs nothing is shared that was not shared before.
"""

import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from app.core.logging import get_logger
from app.core.settings import Settings
from worker.child import SCRATCH_DIR, Child, build_environment
from worker.locked_folder import LockedFolder, take_folder
from worker.training.events import Assignment
from worker.training.standby import READY_FILE

STAND_BY = "--stand-by"
# Nothing reads these before the job is there; every other variable was read by an import.
_LATE_VARIABLES = frozenset({"TMPDIR", "CUDA_VISIBLE_DEVICES"})
_TICK_SECONDS = 0.1
_LOG = get_logger(__name__)
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class _Trainer:
    """A started trainer, its own folder and what it was started with."""

    child: Child
    folder: LockedFolder
    environment: Mapping[str, str]

    def end(self) -> None:
        self.child.finish()
        self.folder.remove()

    def suits(self, environment: Mapping[str, str]) -> bool:
        return not self.child.has_exited() and _early(self.environment) == _early(environment)

    def assign(self, workspace: Path, environment: Mapping[str, str], descriptors: Sequence[int]) -> bool:
        """Return whether the trainer has the job now."""
        late = {name: value for name, value in environment.items() if name in _LATE_VARIABLES}
        line = _encode(Assignment(str(workspace), late)) + b"\n"
        return self.child.hand_over(line, workspace, descriptors)


class Standby:
    """At most one waiting trainer, and the thread that has started it.

    The thread outlives every trainer that it has started: the kernel kills a child with the thread that made it.

    Args:
        settings: Whether a trainer waits at all, its threads, where its folder goes.
        command: Program that trains; ``--stand-by`` and its folder's path are appended.
    """

    def __init__(self, settings: Settings, command: tuple[str, ...]) -> None:
        self._settings = settings
        self._command = (*command, STAND_BY)
        self._lock = threading.Lock()
        self._orders: queue.SimpleQueue[bool] | None = None
        self._waiting: _Trainer | None = None
        self._taken: list[_Trainer] = []

    def prepare(self) -> None:
        """See to it that a trainer waits, if the operator wants one to; returns at once."""
        if not self._settings.worker_standby:
            return
        with self._lock:
            if self._orders is None:
                self._orders = queue.SimpleQueue()
                threading.Thread(target=self._run, args=(self._orders,), name="standby", daemon=True).start()
            self._orders.put(True)

    def is_ready(self) -> bool:
        """Return whether a trainer waits that has imported everything."""
        with self._lock:
            return self._waiting is not None and (self._waiting.folder.path / READY_FILE).exists()

    def take(self, workspace: Path, environment: Mapping[str, str], inherited: Sequence[int]) -> Child | None:
        """Hand the job in ``workspace`` to the waiting trainer, ready or not, and return it.

        Args:
            workspace: The job's folder.
            environment: All variables that the job's trainer is to have.
            inherited: Descriptors that it is to hold open.

        Returns:
            The trainer, now the caller's to finish; None where the job needs one of its own: none waits, it has died,
            or it was started in an environment that cannot be changed any more.
        """
        with self._lock:
            trainer, self._waiting = self._waiting, None
            if trainer is None:
                return None
            if trainer.suits(environment) and trainer.assign(workspace, environment, inherited):
                self._taken.append(trainer)
                return trainer.child
            _dismiss(trainer)
            return None

    def close(self) -> None:
        """End the waiting trainer. Trainers that were taken go on until they are finished."""
        with self._lock:
            orders, self._orders = self._orders, None
            if self._waiting is not None:
                self._waiting.end()
                self._waiting = None
        if orders is not None:
            orders.put(False)

    def _run(self, orders: queue.SimpleQueue[bool]) -> None:
        while orders.get():
            with self._lock:
                self._clear_away()
                if self._orders is orders and self._waiting is None:
                    self._start()
        while self._has_taken():
            time.sleep(_TICK_SECONDS)

    def _has_taken(self) -> bool:
        with self._lock:
            self._clear_away()
            return bool(self._taken)

    def _clear_away(self) -> None:
        """Remove the folders of trainers that are finished, and a waiting one that has died."""
        for trainer in [one for one in self._taken if one.child.has_finished]:
            trainer.folder.remove()
            self._taken.remove(trainer)
        if self._waiting is not None and self._waiting.child.has_exited():
            _dismiss(self._waiting)
            self._waiting = None

    def _start(self) -> None:
        try:
            folder = take_folder(self._settings.workspaces, "standby", (SCRATCH_DIR,))
        except OSError:
            _LOG.exception("no folder for a trainer to wait in")
            return
        scratch = folder.path / SCRATCH_DIR
        environment = build_environment(os.environ, threads=self._settings.trainer_threads(), scratch=scratch)
        held = (folder.descriptor,)
        try:
            child = Child.start(self._command, workspace=folder.path, environment=environment, inherited=held)
        except OSError:
            _LOG.exception("no trainer could be started to wait")
            folder.remove()
        else:
            self._waiting = _Trainer(child, folder, environment)


def _early(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in _LATE_VARIABLES}


def _dismiss(trainer: _Trainer) -> None:
    """End a trainer that is of no use and keep its last words for the operator."""
    trainer.end()
    _LOG.warning("waiting trainer of no use", exit_code=trainer.child.exit_code, log=trainer.child.log_tail[-2000:])

"""What every job of a worker process shares, built once."""

import os
import socket
import sys
import threading
from dataclasses import dataclass, field
from typing import Self

from sqlalchemy import Engine

from app.completions.configuration import Endpoints
from app.core.settings import Settings, get_settings
from app.db.session import SessionFactory, build_engine, build_session_factory
from app.storage import BlobStore
from worker.previews.host import PreviewHost
from worker.standby import Standby

TRAINER_COMMAND = (sys.executable, "-m", "worker.training", "run")
PREVIEW_COMMAND = (sys.executable, "-m", "worker.training", "preview")


@dataclass(frozen=True)
class WorkerContext:
    """Connections and identity of one worker process.

    Attributes:
        settings: The operator's settings.
        engine: The pool behind ``factory``.
        factory: Short sessions; none is open while a child runs.
        store: Where inputs come from and results go.
        name: Shown as the owner of leases.
        previews: The warm process that answers saliency previews.
        standby: The trainer that waits for the next job.
        child_command: Program that trains; the workspace's path is appended.
        endpoints: Models that children may ask through this process.
        draining: Set once the process is asked to go: no claims from then on, running children are stopped.
    """

    settings: Settings
    engine: Engine
    factory: SessionFactory
    store: BlobStore
    name: str
    previews: PreviewHost
    standby: Standby
    child_command: tuple[str, ...] = TRAINER_COMMAND
    endpoints: Endpoints = field(default_factory=Endpoints)
    draining: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        child_command: tuple[str, ...] = TRAINER_COMMAND,
        preview_command: tuple[str, ...] = PREVIEW_COMMAND,
    ) -> Self:
        """Return a context with its own connection pool; connects on first use."""
        engine = build_engine(settings)
        name = f"{socket.gethostname()}:{os.getpid()}"
        store = BlobStore.from_url(settings.storage_url)
        previews = PreviewHost(settings, preview_command)
        standby = Standby(settings, child_command)
        endpoints = Endpoints.from_settings(settings)
        factory = build_session_factory(engine)
        return cls(settings, engine, factory, store, name, previews, standby, child_command, endpoints)

    def close(self) -> None:
        """End the processes that wait and drop the connections; all come back when the context is used again."""
        self.standby.close()
        self.previews.close()
        self.engine.dispose()


_installed: list[WorkerContext] = []


def install_context(context: WorkerContext) -> None:
    """Make ``context`` the one of this process."""
    _installed[:] = [context]


def get_context() -> WorkerContext:
    """Return the context of this process; unless one was installed, it is built from the environment."""
    if not _installed:
        install_context(WorkerContext.from_settings(get_settings()))
    return _installed[0]

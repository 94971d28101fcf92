"""Servers and processes of a fault test: everything real, everything killable, timings shrunk."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from pydantic import SecretStr

from app.core.failpoints import VARIABLE
from app.core.settings import Settings
from app.db.session import SessionFactory
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.valkey import EmbeddedValkey
from app.queue import JobQueue
from app.storage import BlobStore
from tests.worker.scripted_jobs import wait_until

ROOT = Path(__file__).parents[2]


@dataclass
class Process:
    """A process of ours with its log."""

    popen: subprocess.Popen[bytes]
    log: Path

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL it and wait."""
        self.popen.kill()
        self.popen.wait(10)

    def text(self) -> str:
        """Return what it has logged."""
        return self.log.read_text()


@dataclass
class World:
    """One private Postgres, one private Valkey, and the processes that a test starts."""

    root: Path
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    settings: Settings
    factory: SessionFactory
    store: BlobStore
    queue: JobQueue
    processes: list[Process] = field(default_factory=list)
    clients: list[httpx.Client] = field(default_factory=list)

    def start_worker(self, *, module: str = "tests.faults.scripted_worker", **changes: Any) -> Process:
        """Start a worker with a scratch folder of its own and wait until it consumes messages."""
        process = self.start_doomed_worker(module=module, **changes)
        wait_until(lambda: " ready." in process.text(), what=process.text())
        return process

    def start_doomed_worker(self, *, module: str, **changes: Any) -> Process:
        """Start a worker that may die as soon as it works."""
        number = len(self.processes)
        folder = self.root / f"workspaces-{number}"
        return self._start([sys.executable, "-m", module], f"worker-{number}", {"workspace_dir": folder, **changes})

    def start_api(self, **changes: Any) -> httpx.Client:
        """Start the API on a socket and return a client once it serves."""
        number = len(self.processes)
        path = self.root / f"api-{number}.sock"
        command = [sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--uds", str(path)]
        process = self._start(command, f"api-{number}", changes)

        def is_listening() -> bool:
            assert process.popen.poll() is None, process.text()
            with socket.socket(socket.AF_UNIX) as probe, suppress(FileNotFoundError, ConnectionRefusedError):
                probe.connect(str(path))
                return True
            return False

        wait_until(is_listening, what="the API listens")
        transport = httpx.HTTPTransport(uds=str(path))
        self.clients.append(httpx.Client(transport=transport, base_url="http://api", timeout=10))
        return self.clients[-1]

    def trainers(self) -> list[psutil.Process]:
        """Return the living trainer processes of this world, those that wait for a job among them."""
        return [process for process in psutil.process_iter() if self._is_trainer(process)]

    def trainers_at_work(self) -> list[psutil.Process]:
        """Return those of the trainers that have left the folder in which they wait for a job, or never were there."""
        return [process for process in self.trainers() if "standby-" not in _folder(process)]

    def end(self) -> None:
        """Kill every process that the test has started."""
        for client in self.clients:
            client.close()
        for process in self.processes:
            with suppress(ProcessLookupError):
                process.popen.kill()
            process.popen.wait(10)

    def _start(self, command: Sequence[str], name: str, changes: dict[str, Any]) -> Process:
        log = self.root / f"{name}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                command, env=self._environment(changes), cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
            )
        self.processes.append(Process(popen, log))
        return self.processes[-1]

    def _environment(self, changes: dict[str, Any]) -> dict[str, str]:
        failpoint = changes.pop("failpoint", None)
        values = self.settings.model_copy(update=changes).model_dump(exclude_none=True)
        named = {"database_url": "DATABASE_URL", "broker_url": "BROKER_URL", "storage_url": "STORAGE_URL"}
        environment = {named.get(key, f"NLFT_{key.upper()}"): _text(value) for key, value in values.items()}
        environment |= {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
        return environment | ({VARIABLE: failpoint} if failpoint else {})

    def _is_trainer(self, process: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            return any(str(self.root / "workspaces") in word for word in process.cmdline()[2:])
        return False


def _folder(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return process.cwd()
    return ""


def _text(value: Any) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)

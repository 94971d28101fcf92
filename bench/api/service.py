"""What is measured: a real API process with embedded servers, its opponent beside it, and the rows that they serve."""

import http.client
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from app.api_keys import service as api_keys
from app.core.settings import Settings
from app.db.migration import upgrade
from app.db.session import build_engine, build_session_factory
from app.embedded.process import ManagedProcess
from app.embedded.supervisor import embedded_services
from app.models import service as models
from bench.api import requests
from bench.api.client import COUNTER, Address

MODEL = "bench-model"
_TRAINING_BYTES = 1_200_000
_READY_SECONDS = 60.0
# Rows of a job, and the job itself last.
_JOB_TABLES = (("job_events", "job_id"), ("file_holds", "job_id"), ("fine_tuning_jobs", "id"))


@dataclass(frozen=True, slots=True)
class Tenant:
    """A project, a key of it, and a training file in it."""

    project_id: str
    key: str
    file_id: str


@dataclass(frozen=True, slots=True)
class Target:
    """A server process under load."""

    address: Address
    pid: int


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything that runs: the API, the opponent, PostgreSQL, and the tenants of the API."""

    api: Target
    constant: Target
    postgres_pid: int
    database_url: str
    reader: Tenant
    creators: tuple[Tenant, ...]

    def ask(self, request: bytes) -> Any:
        """Send one request to the API; return the decoded answer."""
        return json.loads(exchange(self.api.address, request))

    def clear_created(self) -> int:
        """Delete the jobs of the creators, so that each round finds the tables alike; return how many they were."""
        projects = [tenant.project_id for tenant in self.creators]
        deleted = 0
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            jobs = "SELECT id FROM fine_tuning_jobs WHERE project_id = ANY(%s)"
            for table, column in _JOB_TABLES:
                deleted = connection.execute(f"DELETE FROM {table} WHERE {column} IN ({jobs})", [projects]).rowcount
            for table, _ in _JOB_TABLES:
                connection.execute(f"VACUUM ANALYZE {table}")
        return deleted


@contextmanager
def running_bench(directory: Path, *, api_cores: frozenset[int], creators: int, listed_jobs: int) -> Iterator[Bench]:
    """Start everything below ``directory``; stop it at the end.

    Args:
        directory: Holds databases, blobs and logs.
        api_cores: Where the two server processes run; everything else stays where this process runs.
        creators: How many projects there are that create jobs.
        listed_jobs: How many jobs the reading project has.

    Raises:
        EmbeddedServerError: A part does not start.
    """
    with ExitStack() as running:
        services = running.enter_context(embedded_services(directory, {}))
        environment = {
            **services.environment,
            "NLFT_API_KEY_PEPPER": secrets.token_hex(16),
            "NLFT_STATE_DIR": str(directory),
        }
        keys = _prepare(environment, creators + 1)
        api = running.enter_context(_served("app.cli.serve", "--fd", directory, environment, api_cores))
        constant = running.enter_context(_served("bench.api.constant", "", directory, environment, api_cores))
        tenants = [Tenant(project_id, key, _upload_rows(api.address, key)) for project_id, key in keys]
        reader, *others = tenants
        for number in range(listed_jobs):
            exchange(api.address, create_request(reader).replace(COUNTER, b"%016x" % number))
        postgres_pid = services.servers["postgres"].pid
        assert postgres_pid is not None
        yield Bench(api, constant, postgres_pid, environment["DATABASE_URL"], reader, tuple(others))


def create_request(tenant: Tenant) -> bytes:
    """Return a create call of the tenant, with the counter in it."""
    return requests.post(requests.JOBS, requests.create_body(MODEL, tenant.file_id), tenant.key)


def exchange(address: Address, request: bytes) -> bytes:
    """Send one request on a connection of its own; return the body of the answer.

    Raises:
        RuntimeError: The status is not 200.
    """
    with socket.create_connection(address, timeout=_READY_SECONDS) as connection:
        connection.sendall(request)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        body = answer.read(answer.length or 0)
    if answer.status != 200:
        raise RuntimeError(f"status {answer.status}: {body[:500]!r}")
    return body


def _prepare(environment: dict[str, str], projects: int) -> list[tuple[str, str]]:
    """Make the schema, a base model, and projects with a key each; return ids and keys."""
    settings = Settings(DATABASE_URL=environment["DATABASE_URL"])
    engine = build_engine(settings)
    upgrade(engine)
    facts = models.BaseModelFacts(
        id=MODEL,
        path="/models/bench",
        digest="d" * 64,
        architecture="LlamaForCausalLM",
        parameters=135_000_000,
        context_length=8192,
    )
    made = []
    with build_session_factory(engine)() as session:
        models.register_base_model(session, facts)
        for number in range(projects):
            project = api_keys.create_project(session, f"bench {number}")
            key = api_keys.create_key(session, environment["NLFT_API_KEY_PEPPER"], project.id, name="bench")
            made.append((project.id, key.text))
    engine.dispose()
    return made


@contextmanager
def _served(
    module: str, flag: str, directory: Path, environment: dict[str, str], cores: frozenset[int]
) -> Iterator[Target]:
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        descriptor = str(listener.fileno())
        process = ManagedProcess(
            [sys.executable, "-m", module, *([flag] if flag else []), descriptor],
            directory / f"{module}.log",
            stop_signals=((signal.SIGTERM, 15.0),),
            environment={**os.environ, **environment},
            pass_fds=(listener.fileno(),),
        )
        process.start()
        try:
            pid = process.pid
            assert pid is not None
            os.sched_setaffinity(pid, cores)  # before it has threads, which inherit it
            address: Address = listener.getsockname()
            process.wait_ready(lambda: _answers(address), seconds=_READY_SECONDS, name=module)
            yield Target(address, pid)
        finally:
            process.stop()


def _answers(address: Address) -> bool:
    """Return whether the server answers anything at all: the listening socket accepts before the server does."""
    try:
        with socket.create_connection(address, timeout=1.0) as connection:
            connection.sendall(requests.get("/livez"))
            return connection.recv(12).startswith(b"HTTP/1.1")
    except (TimeoutError, ConnectionError):
        return False


def _upload_rows(address: Address, key: str) -> str:
    head, content, tail = requests.multipart("fine-tune", requests.chat_rows(_TRAINING_BYTES, seed=1))
    request = requests.post("/v1/files", head + content + tail, key, kind=requests.MULTIPART_KIND)
    file_id: str = json.loads(exchange(address, request))["id"]
    return file_id

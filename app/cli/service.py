"""The whole service on one host: embedded servers, schema, API and worker, started and stopped in order."""

import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from celery import Celery

from app.cli.bootstrap import default_model, ensure_key
from app.cli.children import Part, Watch
from app.cli.output import CommandError
from app.cli.state import StateDirectory
from app.core.settings import Settings
from app.db.migration import upgrade
from app.db.session import build_engine, build_session_factory
from app.embedded.directories import ensure_ours, locked, secret_file
from app.embedded.process import ManagedProcess
from app.embedded.supervisor import embedded_services

_READY_SECONDS = 60.0
# Beyond the time that a trainer gets to write its checkpoint.
_WORKER_EXTRA_SECONDS = 15.0
_API_GRACE_SECONDS = 15.0

Report = Callable[[str], None]


@dataclass(frozen=True)
class RunningService:
    """A service that answers: where, with which key, and what must be watched."""

    base_url: str
    api_key: str
    watch: Watch


@contextmanager
def running_service(
    state: StateDirectory, host: str, port: int, *, wants_model: bool, report: Report
) -> Iterator[RunningService]:
    """Start everything on ``state``, yield when it is ready to serve, and stop it in reverse order.

    The worker drains first, then the API ends, then the servers stop.

    Args:
        state: Where everything lies.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        wants_model: Whether to import and register the default base model when it is not there.
        report: Told what is being done.

    Raises:
        CommandError: The port is taken, the model cannot be imported, or a part does not start.
        EmbeddedServerError: The directory is in use, or an embedded server does not start.
    """
    ensure_ours(state.path)
    with ExitStack() as running:
        running.enter_context(locked(state.path))
        # A killed predecessor could not remove them.
        state.forget()
        running.callback(state.forget)
        listener = running.enter_context(_listen(host, port))
        report("starting PostgreSQL and Valkey")
        given = Settings()
        services = running.enter_context(
            embedded_services(state.path, os.environ, postgres_bin=given.postgres_bin, valkey_bin=given.valkey_bin)
        )
        settings = _adopt(state, services.environment)
        engine = build_engine(settings)
        running.callback(engine.dispose)
        report("migrating the database")
        upgrade(engine)
        factory = build_session_factory(engine)
        api_key = ensure_key(factory, settings, state)
        with default_model(factory, settings.model_cache, wanted=wants_model) as model:
            processes = {"API": _api(state, listener), "worker": _worker(state, settings)}
            for process in processes.values():
                process.start()
                running.callback(process.stop)
            model.finish(lambda line: report(f"importing the default base model: {line}"))
        base_url = f"http://{_address(host, listener)}"
        report("waiting for the API")
        processes["API"].wait_ready(lambda: _answers(f"{base_url}/readyz"), seconds=_READY_SECONDS, name="The API")
        report("waiting for the worker")
        with Celery(broker=settings.broker_url.get_secret_value()) as remote:
            processes["worker"].wait_ready(lambda: _has_worker(remote), seconds=_READY_SECONDS, name="The worker")
        parts: dict[str, Part] = {**services.servers, **processes}
        yield RunningService(f"{base_url}/v1", api_key, Watch(parts, report))


def _adopt(state: StateDirectory, environment: dict[str, str]) -> Settings:
    """Put the addresses and the pepper into our environment and our children's; return settings with them."""
    pepper = os.environ.get("NLFT_API_KEY_PEPPER") or secret_file(state.pepper_file)
    found = {**environment, "NLFT_API_KEY_PEPPER": pepper, "NLFT_STATE_DIR": str(state.path)}
    os.environ.update(found)
    state.write(state.environment_file, found)
    return Settings()


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """Yield the listening socket; it outlives the API process, so a restart refuses no connection."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise CommandError(f"Cannot listen on {host} port {port}: {error.strerror}. Choose another --port.") from error
    with listener:
        yield listener


def _address(host: str, listener: socket.socket) -> str:
    """Return host and port as a client on this host writes them."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    port = listener.getsockname()[1]
    return f"[{local}]:{port}" if ":" in local else f"{local}:{port}"


def _api(state: StateDirectory, listener: socket.socket) -> ManagedProcess:
    return ManagedProcess(
        [sys.executable, "-m", "app.cli.serve", "--fd", str(listener.fileno())],
        state.log("api"),
        stop_signals=((signal.SIGTERM, _API_GRACE_SECONDS),),
        pass_fds=(listener.fileno(),),
    )


def _worker(state: StateDirectory, settings: Settings) -> ManagedProcess:
    return ManagedProcess(
        [sys.executable, "-m", "worker"],
        state.log("worker"),
        stop_signals=((signal.SIGTERM, settings.stop_grace_seconds + _WORKER_EXTRA_SECONDS),),
    )


def _has_worker(remote: Celery) -> bool:
    return bool(remote.control.ping(timeout=0.3, limit=1))


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False

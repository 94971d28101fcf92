"""An embedded PostgreSQL server: unix socket in a closed folder, scram password, checksums, fsync on."""

import signal
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from app.embedded.directories import end_leftovers, ensure_private, locked, secret_file, socket_directory
from app.embedded.identity import choose_identity
from app.embedded.postgres_data import SUPERUSER, prepare_data
from app.embedded.process import Identity, ManagedProcess
from app.embedded.providers import PostgresBinaries, find_postgres

_SOCKET_NAME = ".s.PGSQL.5432"
_START_SECONDS = 60.0


class EmbeddedPostgres:
    """A PostgreSQL server on a directory of its own; ``with EmbeddedPostgres(directory) as server: server.url``.

    Start it from a thread that outlives it: the server shuts down when that thread ends, however it ends.

    Args:
        directory: Holds data, log, password and socket, all closed to others; made when absent.
        binaries: Server programs; None takes the first provider.
        database: Database that ``url`` names; made when absent.
        template_cache: Folder for initialised data directories to copy; None initialises afresh.
        identity: Whom the server runs as; None chooses what this host allows.
    """

    def __init__(
        self,
        directory: Path,
        *,
        binaries: PostgresBinaries | None = None,
        database: str = "nlft",
        template_cache: Path | None = None,
        identity: Identity | None = None,
    ) -> None:
        self.directory = directory.expanduser().absolute()
        self._binaries = binaries or find_postgres()
        self._database = database
        self._template_cache = template_cache
        self._identity = identity
        self._process: ManagedProcess | None = None
        self._held = ExitStack()
        self._sockets = self.directory / "run"
        self._password = ""

    @property
    def url(self) -> str:
        """Libpq URL of the database over the socket; valid from the first start on, also across restarts."""
        return self._url(self._database)

    @property
    def pid(self) -> int | None:
        """Process id of the running server, None when it does not run."""
        return self._process.pid if self._process else None

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.directory / "data"

    def is_running(self) -> bool:
        """Tell whether the server process exists."""
        return self._process is not None and self._process.is_running()

    def start(self) -> None:
        """Start the server and wait until it answers; does nothing when it runs.

        Raises:
            InUseError: Another process holds the directory.
            IncompatibleDataError: The data belongs to another major version.
            UnsafeDirectoryError: The directory is open to other users.
            StartError: The server did not come up; carries the end of its log.
        """
        if self.is_running():
            return
        ensure_private(self.directory)
        with ExitStack() as undo:
            undo.callback(self._release)
            if self._process is None:
                self._held.enter_context(locked(self.directory))
                self._process = self._prepare()
            end_leftovers(self.data)
            self._forget_dead_server()
            self._process.start()
            self._process.wait_ready(self._answers, seconds=_START_SECONDS, name="PostgreSQL")
            self._ensure_database()
            undo.pop_all()

    def stop(self) -> None:
        """Shut the server down cleanly (open transactions are rolled back) and give the directory free."""
        if self._process:
            self._process.stop()
        self._release()

    def kill(self) -> None:
        """SIGKILL the server and wait until its backends are gone; the directory stays ours, so ``start`` goes on."""
        if self._process:
            self._process.kill()
            end_leftovers(self.data)

    def restart(self) -> None:
        """Stop cleanly and start again on the same directory, socket and password."""
        if self._process:
            self._process.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _prepare(self) -> ManagedProcess:
        """Get secrets, sockets and data ready; return the process, not started."""
        identity = self._identity or choose_identity(self._binaries.postgres)
        self._password = secret_file(self.directory / "password")
        # The socket's lock file has the longest name.
        self._sockets = socket_directory(self.directory / "run", f"{_SOCKET_NAME}.lock")
        end_leftovers(self.data)
        prepare_data(self.data, self._binaries, identity, password=self._password, template_cache=self._template_cache)
        return ManagedProcess(
            [str(self._binaries.postgres), "-D", str(self.data), *self._options()],
            self.directory / "server.log",
            death_signal=signal.SIGINT,
            stop_signals=((signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0)),
            identity=identity,
        )

    def _options(self) -> list[str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": f'"{self._sockets}"',
            "unix_socket_permissions": "0700",
            "fsync": "on",
            "max_connections": "100",
            "shared_buffers": "64MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "logging_collector": "off",
        }
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._url("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _ensure_database(self) -> None:
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (self._database,)).fetchone()
            if known is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self._database)))

    def _url(self, database: str) -> str:
        return f"postgresql://{SUPERUSER}:{self._password}@/{database}?host={quote(str(self._sockets), safe='')}"

    def _forget_dead_server(self) -> None:
        """Remove lock files of a killed server: in a container its process id may be somebody else's by now."""
        for stale in (self.data / "postmaster.pid", self._sockets / f"{_SOCKET_NAME}.lock"):
            stale.unlink(missing_ok=True)

    def _release(self) -> None:
        if not self.is_running():
            with suppress(OSError):
                self._sockets.rmdir()
            self._process = None
            self._held.close()

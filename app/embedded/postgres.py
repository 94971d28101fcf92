"""An embedded PostgreSQL server: unix socket in a closed folder, scram password, checksums, fsync on."""

import signal
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from app.embedded.directories import end_leftovers, secret_file, socket_directory
from app.embedded.identity import choose_identity
from app.embedded.postgres_data import SUPERUSER, prepare_data
from app.embedded.process import Identity, ManagedProcess
from app.embedded.providers import PostgresBinaries, find_postgres
from app.embedded.server import EmbeddedServer

_SOCKET_NAME = ".s.PGSQL.5432"


class EmbeddedPostgres(EmbeddedServer):
    """A PostgreSQL server on a directory of its own; ``with EmbeddedPostgres(directory) as server: server.url``.

    Args:
        directory: Holds data, log, password and socket, all closed to others; made when absent.
        binaries: Server programs; None takes the first provider.
        database: Database that ``url`` names; made when absent.
        template_cache: Folder for initialised data directories to copy; None initialises afresh.
        identity: Whom the server runs as; None chooses what this host allows.
    """

    name = "PostgreSQL"

    def __init__(
        self,
        directory: Path,
        *,
        binaries: PostgresBinaries | None = None,
        database: str = "nlft",
        template_cache: Path | None = None,
        identity: Identity | None = None,
    ) -> None:
        super().__init__(directory)
        self._binaries = binaries or find_postgres()
        self._database = database
        self._template_cache = template_cache
        self._identity = identity
        self._password = ""

    @property
    def url(self) -> str:
        """Libpq URL of the database over the socket; valid from the first start on, also across restarts."""
        return self._url(self._database)

    def _prepare(self) -> ManagedProcess:
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

    def _complete(self) -> None:
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (self._database,)).fetchone()
            if known is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self._database)))

    def _url(self, database: str) -> str:
        return f"postgresql://{SUPERUSER}:{self._password}@/{database}?host={quote(str(self._sockets), safe='')}"

    def _forget_dead_server(self) -> None:
        # In a container the process id in a lock file may be somebody else's by now.
        for stale in (self.data / "postmaster.pid", self._sockets / f"{_SOCKET_NAME}.lock"):
            stale.unlink(missing_ok=True)

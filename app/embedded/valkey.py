"""An embedded Valkey (or Redis) server: unix socket in a closed folder, no port, append-only file."""

import signal
from pathlib import Path

import redis

from app.embedded.directories import ensure_private, socket_directory
from app.embedded.process import ManagedProcess
from app.embedded.providers import find_valkey
from app.embedded.server import EmbeddedServer

_SOCKET_NAME = "valkey.sock"


class EmbeddedValkey(EmbeddedServer):
    """A Valkey server on a directory of its own; ``with EmbeddedValkey(directory) as server: server.url``.

    Args:
        directory: Holds the append-only file, log and socket, closed to others; made when absent.
        program: valkey-server or redis-server; None takes the first provider.
    """

    name = "Valkey"
    start_seconds = 30.0

    def __init__(self, directory: Path, *, program: Path | None = None) -> None:
        super().__init__(directory)
        self._program = program or find_valkey()

    @property
    def _socket(self) -> Path:
        return self._sockets / _SOCKET_NAME

    @property
    def url(self) -> str:
        """Broker URL for Celery and kombu. The folder's mode, not a password, keeps others out."""
        return f"redis+socket://{self._socket}"

    @property
    def client_url(self) -> str:
        """The same server as ``redis.Redis.from_url`` spells it."""
        return f"unix://{self._socket}"

    def _prepare(self) -> ManagedProcess:
        ensure_private(self.data)
        self._sockets = socket_directory(self.directory / "run", _SOCKET_NAME)
        return ManagedProcess(
            [str(self._program), *self._options()],
            self.directory / "server.log",
            death_signal=signal.SIGTERM,
            stop_signals=((signal.SIGTERM, 10.0),),
        )

    def _options(self) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self.data),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
        }
        return [part for name, value in settings.items() for part in (f"--{name}", value)]

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.client_url, socket_timeout=5) as client:
                return bool(client.ping())
        except redis.exceptions.RedisError:
            return False

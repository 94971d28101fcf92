"""An embedded Valkey (or Redis) server: unix socket in a closed folder, no port, append-only file."""

import signal
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from app.embedded.directories import end_leftovers, ensure_private, locked, socket_directory
from app.embedded.process import ManagedProcess
from app.embedded.providers import find_valkey

_SOCKET_NAME = "valkey.sock"
_START_SECONDS = 30.0


class EmbeddedValkey:
    """A Valkey server on a directory of its own; ``with EmbeddedValkey(directory) as server: server.url``.

    Start it from a thread that outlives it: the server shuts down when that thread ends, however it ends.

    Args:
        directory: Holds the append-only file, log and socket, closed to others; made when absent.
        program: valkey-server or redis-server; None takes the first provider.
    """

    def __init__(self, directory: Path, *, program: Path | None = None) -> None:
        self.directory = directory.expanduser().absolute()
        self._program = program or find_valkey()
        self._process: ManagedProcess | None = None
        self._held = ExitStack()
        self._socket = self.directory / "run" / _SOCKET_NAME

    @property
    def url(self) -> str:
        """Broker URL for Celery and kombu. The folder's mode, not a password, keeps others out."""
        return f"redis+socket://{self._socket}"

    @property
    def client_url(self) -> str:
        """The same server as ``redis.Redis.from_url`` spells it."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int | None:
        """Process id of the running server, None when it does not run."""
        return self._process.pid if self._process else None

    @property
    def data(self) -> Path:
        """The server's working directory."""
        return self.directory / "data"

    def is_running(self) -> bool:
        """Tell whether the server process exists."""
        return self._process is not None and self._process.is_running()

    def start(self) -> None:
        """Start the server and wait until it answers; does nothing when it runs.

        Raises:
            InUseError: Another process holds the directory.
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
            self._process.start()
            self._process.wait_ready(self._answers, seconds=_START_SECONDS, name="Valkey")
            undo.pop_all()

    def stop(self) -> None:
        """Stop the server cleanly and give the directory free."""
        if self._process:
            self._process.stop()
        self._release()

    def kill(self) -> None:
        """SIGKILL the server; the directory stays ours, so ``start`` goes on."""
        if self._process:
            self._process.kill()

    def restart(self) -> None:
        """Stop cleanly and start again on the same directory and socket."""
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
        ensure_private(self.data)
        self._socket = socket_directory(self.directory / "run", _SOCKET_NAME) / _SOCKET_NAME
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

    def _release(self) -> None:
        if not self.is_running():
            with suppress(OSError):
                self._socket.parent.rmdir()
            self._process = None
            self._held.close()

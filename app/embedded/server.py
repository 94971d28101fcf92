"""What the embedded servers have in common: one process on one directory that is locked while it is ours."""

from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from app.embedded.directories import end_leftovers, ensure_private, locked
from app.embedded.process import ManagedProcess


class EmbeddedServer:
    """Start, stop, kill and restart of a server; subclasses say how it is prepared and when it answers.

    Start it from a thread that outlives it: the server shuts down when that thread ends, however it ends.

    Args:
        directory: Holds everything of the server, closed to others; made when absent.
    """

    name = "the server"
    start_seconds = 60.0

    def __init__(self, directory: Path) -> None:
        self.directory = directory.expanduser().absolute()
        self._process: ManagedProcess | None = None
        self._held = ExitStack()
        self._sockets = self.directory / "run"

    @property
    def pid(self) -> int | None:
        """Process id of the running server, None when it does not run."""
        return self._process.pid if self._process else None

    @property
    def data(self) -> Path:
        """The data directory, and the server's working directory."""
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
            self._process.wait_ready(self._answers, seconds=self.start_seconds, name=self.name)
            self._complete()
            undo.pop_all()

    def stop(self) -> None:
        """Shut the server down cleanly and give the directory free."""
        if self._process:
            self._process.stop()
        self._release()

    def kill(self) -> None:
        """SIGKILL the server and wait until its processes are gone; the directory stays ours, so ``start`` goes on."""
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
        """Get the directory ready; return the process, not started."""
        raise NotImplementedError

    def _answers(self) -> bool:
        """Tell whether the server takes requests."""
        raise NotImplementedError

    def _forget_dead_server(self) -> None:
        """Remove what a killed server left and a new one would stumble over."""

    def _complete(self) -> None:
        """Make what clients expect of a server that answers."""

    def _release(self) -> None:
        if not self.is_running():
            with suppress(OSError):
                self._sockets.rmdir()
            self._process = None
            self._held.close()

"""One child process of ours: starts in its own session, dies with us, logs to a file, stops politely then firmly."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.embedded.errors import StartError

_LAUNCHER = Path(__file__).with_name("launcher.py")
_LOG_TAIL_BYTES = 2000
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Identity:
    """Whom a server runs as: ``same`` as we, ``namespace`` or ``capability`` (see ``app.embedded.identity``)."""

    kind: str = "same"
    uid: int = 0


SAME = Identity()


def launch_command(command: Sequence[str], *, death_signal: int, identity: Identity = SAME) -> list[str]:
    """Return ``command`` wrapped so that the kernel sends ``death_signal`` when the calling thread ends (Linux)."""
    if not sys.platform.startswith("linux"):
        return list(command)
    tie = [str(os.getpid()), str(int(death_signal)), identity.kind, str(identity.uid)]
    return [sys.executable, "-I", "-S", str(_LAUNCHER), *tie, "--", *command]


class ManagedProcess:
    """A child that may be started, stopped, killed and started again.

    Start it from a thread that lives as long as the process should: the parent-death signal follows the thread.

    Args:
        command: Absolute program path and its arguments.
        log_file: Receives stdout and stderr, appended.
        death_signal: Sent by the kernel when we end without stopping the child.
        stop_signals: Signals of ``stop``, each with the seconds to wait for the end; SIGKILL follows the last.
        environment: Whole environment of the child; None inherits ours.
        identity: Whom the child runs as.
        pass_fds: File descriptors the child inherits.
    """

    def __init__(
        self,
        command: Sequence[str],
        log_file: Path,
        *,
        death_signal: int = signal.SIGKILL,
        stop_signals: Iterable[tuple[int, float]] = ((signal.SIGTERM, 10.0),),
        environment: Mapping[str, str] | None = None,
        identity: Identity = SAME,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.command = list(command)
        self.log_file = log_file
        self._death_signal = death_signal
        self._stop_signals = tuple(stop_signals)
        self._environment = environment
        self._identity = identity
        self._pass_fds = tuple(pass_fds)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the running child, None when it does not run."""
        return self._process.pid if self._process and self.is_running() else None

    @property
    def exit_code(self) -> int | None:
        """Exit code of the last run, negative for a signal; None while running or before the first start."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Start the child, in its own session: the terminal's Ctrl-C reaches us alone, and we decide the order."""
        if self.is_running():
            return
        with _open_private(self.log_file) as log:
            self._process = subprocess.Popen(
                launch_command(self.command, death_signal=self._death_signal, identity=self._identity),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=self._pass_fds,
                env=self._environment,
            )

    def is_running(self) -> bool:
        """Tell whether the child exists and has not ended."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Send the stop signals in order, wait after each, and kill what still runs."""
        for number, seconds in self._stop_signals:
            if not self.is_running():
                return
            self.send(number)
            self.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        if self.is_running():
            self.send(signal.SIGKILL)
            self.wait(10.0)

    def send(self, number: int) -> None:
        """Send a signal to the child alone, not to its group."""
        if self._process:
            self._process.send_signal(number)

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for the end; tell whether it came."""
        if self._process is None:
            return True
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def wait_ready(self, is_ready: Callable[[], bool], *, seconds: float, name: str) -> None:
        """Poll ``is_ready`` until true.

        Raises:
            StartError: The child ended first, or ``seconds`` passed; the message carries the end of the log.
        """
        ready = wait_until(lambda: not self.is_running() or is_ready(), seconds=seconds)
        if not self.is_running():
            raise StartError(f"{name} ended with code {self.exit_code} while starting:\n{self.log_tail()}")
        if not ready:
            raise StartError(f"{name} was not ready within {seconds:g} s:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """Return the end of the log file."""
        try:
            content = self.log_file.read_bytes()
        except FileNotFoundError:
            return ""
        return content[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()


def die_with_parent(number: int) -> None:
    """Ask the kernel to send us signal ``number`` when our parent ends (Linux; elsewhere nothing happens)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def wait_until(condition: Callable[[], bool], *, seconds: float, every: float = 0.02) -> bool:
    """Poll ``condition`` every ``every`` seconds; return whether it became true within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


def _open_private(path: Path) -> BinaryIO:
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))

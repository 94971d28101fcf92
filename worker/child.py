"""The trainer as a child process: its own session, an environment from an allow list, two channels and a capped log.

``start`` must be called on the thread that outlives the child: the parent-death signal fires when that thread ends.
"""

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from worker.training.events import CONTROL_FD, EVENTS_FD, LINE_BYTES

LOG_FILE = "child.log"
SCRATCH_DIR = "tmp"
"""Folder in a child's own for its temporary files."""
LOG_BYTES = 4 << 20
LOG_TAIL_BYTES = 16 << 10
KILL_SECONDS = 10.0
_CHUNK_BYTES = 64 << 10
_LAUNCHER = Path(__file__).with_name("launch.py")
_RANKS = Path(__file__).with_name("ranks.py")
_PACKAGE_ROOT = Path(__file__).parents[1]
_PASSED_ON = frozenset({"HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "TZ", "USER"})
_PASSED_ON_PREFIXES = ("CUDA_", "NVIDIA_", "NCCL_", "ROCR_", "HIP_")


def build_environment(source: Mapping[str, str], *, threads: int, scratch: Path) -> dict[str, str]:
    """Return the child's environment: the few harmless variables of ``source``, and thread counts.

    Database, broker and storage credentials are absent because only named variables pass.
    """
    passed = {
        name: value for name, value in source.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    count = str(threads)
    return passed | {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "PYTHONPATH": str(_PACKAGE_ROOT),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(scratch),
    }


def several(command: Sequence[str], count: int) -> tuple[str, ...]:
    """Return the command that runs ``command`` as ``count`` processes of one run."""
    launch = () if count == 1 else (sys.executable, "-I", "-S", str(_RANKS), str(count))
    return (*launch, *command)


class Child:
    """A running trainer and the parent's ends of its channels. Used by one thread at a time.

    Attributes:
        pid: Process and group id.
        has_finished: Whether ``finish`` has been here: the group is dead and the channels are closed.
        neighbours: Other attempts that it trains for.
    """

    neighbours = 0

    def __init__(self, process: subprocess.Popen[bytes], events: int, control: socket.socket, log_path: Path) -> None:
        if process.stdout is None:
            raise ValueError("the child's output must be a pipe")
        self.pid = process.pid
        self._process = process
        self._control = control
        self._log = _CappedLog(log_path)
        self._lines = _LineBuffer()
        self._selector = selectors.DefaultSelector()
        for descriptor, sink in ((events, self._lines.feed), (process.stdout.fileno(), self._log.write)):
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ, sink)
        self._events = events
        control.setblocking(False)
        self._outgoing = bytearray()
        self.has_finished = False

    @classmethod
    def start(
        cls, command: Sequence[str], *, workspace: Path, environment: Mapping[str, str], inherited: Sequence[int] = ()
    ) -> "Child":
        """Exec ``command`` + workspace in a new session; descriptors in ``inherited`` stay open in it."""
        events_read, events_write = os.pipe()
        # A socket, because open files can follow over it: see ``hand_over``.
        own_control, control = socket.socketpair()
        arguments = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), *command, str(workspace)]
        pipes = {EVENTS_FD: str(events_write), CONTROL_FD: str(control.fileno())}
        try:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=workspace,
                env={**environment, **pipes},
                start_new_session=True,
                pass_fds=(events_write, control.fileno(), *inherited),
            )
        except OSError:
            os.close(events_read)
            own_control.close()
            raise
        finally:
            os.close(events_write)
            control.close()
        return cls(process, events_read, own_control, workspace / LOG_FILE)

    def hand_over(self, line: bytes, workspace: Path, descriptors: Sequence[int]) -> bool:
        """Send a child that waits for its job the ``line`` that tells it, with open ``descriptors``; move the log.

        Returns:
            Whether the child has, or will find, the whole line. Otherwise it is of no more use.
        """
        self._log.move(workspace / LOG_FILE)
        try:
            return socket.send_fds(self._control, [line], descriptors) == len(line)
        except OSError:
            return False

    def send(self, line: bytes) -> None:
        """Write a line of the control protocol, the rest of it during ``read`` when the child is slow to take it.

        A child that no longer listens is about to be noticed anyway.
        """
        self._outgoing += line
        self._write_outgoing()

    def read(self, timeout: float) -> Iterator[bytes]:
        """Wait up to ``timeout`` seconds for output, then yield the complete event lines."""
        if not self._selector.get_map():
            time.sleep(timeout)
            return
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._control:
                self._write_outgoing()
                continue
            chunk = os.read(key.fd, _CHUNK_BYTES)
            if chunk:
                key.data(chunk)
            else:
                self._selector.unregister(key.fd)
        yield from self._lines.take()

    def has_exited(self) -> bool:
        """Return whether the child is dead. It stays a zombie until ``finish``, so that its group id stays ours."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return self._process.returncode is not None or os.waitid(os.P_PID, self.pid, flags) is not None

    def kill(self) -> None:
        """Kill the child's whole group at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def finish(self) -> list[bytes]:
        """Kill what is left of the group, verify that it is dead, and return the event lines not read yet."""
        self.kill()
        self._process.wait()
        deadline = time.monotonic() + KILL_SECONDS
        rest: list[bytes] = []
        while self._selector.get_map() and time.monotonic() < deadline:
            rest += self.read(0.05)
        while _group_exists(self.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        self._close()
        self.has_finished = True
        return rest

    @property
    def exit_code(self) -> int:
        """Exit status, negative for a signal; valid after ``finish``."""
        return self._process.wait()

    @property
    def log_tail(self) -> str:
        """The end of what the child printed."""
        return self._log.tail()

    def _write_outgoing(self) -> None:
        try:
            while self._outgoing:
                del self._outgoing[: self._control.send(self._outgoing[:_CHUNK_BYTES])]
        except BlockingIOError:
            if self._control not in self._selector.get_map():
                self._selector.register(self._control, selectors.EVENT_WRITE)
            return
        except (BrokenPipeError, ConnectionResetError):
            self._outgoing.clear()
        if self._control in self._selector.get_map():
            self._selector.unregister(self._control)

    def _close(self) -> None:
        self._selector.close()
        self._log.close()
        os.close(self._events)
        self._control.close()
        if self._process.stdout is not None:
            self._process.stdout.close()


class _LineBuffer:
    """Cuts bytes into lines; a line beyond the limit is dropped, not kept in memory."""

    def __init__(self) -> None:
        self._partial = bytearray()
        self._complete: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        *complete, rest = chunk.split(b"\n")
        for piece in complete:
            self._append(piece)
            if len(self._partial) <= LINE_BYTES:
                self._complete.append(bytes(self._partial))
            self._partial.clear()
        self._append(rest)

    def take(self) -> list[bytes]:
        lines, self._complete = self._complete, []
        return lines

    def _append(self, piece: bytes) -> None:
        room = LINE_BYTES + 1 - len(self._partial)
        self._partial += piece[:room]


class _CappedLog:
    """Keeps the first bytes in a file and the last bytes in memory, whatever a child prints."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] = path.open("wb")
        self._left = LOG_BYTES
        self._tail = b""

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk[: self._left])
        self._left -= min(self._left, len(chunk))
        self._tail = (self._tail + chunk)[-LOG_TAIL_BYTES:]

    def move(self, path: Path) -> None:
        self._path = self._path.replace(path)

    def tail(self) -> str:
        return self._tail.decode("utf-8", "replace").replace("\x00", "")

    def close(self) -> None:
        self._file.close()


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

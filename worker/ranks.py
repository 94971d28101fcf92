"""Runs a trainer as several processes of one run, and ends them all when one of them ends badly.

Run by path, before any package is importable: ``python -I -S ranks.py COUNT COMMAND...``. Each process is told who it
is as ``torchrun`` would tell it; the first alone gets the pipes to the worker. The kernel kills them with this process,
and this process with the worker. It ends as the run did: by the signal that killed a process, else with the first bad
exit status.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

GRACE_SECONDS = 5
"""How long the others may take to say what went wrong, once one has ended badly."""
TICK_SECONDS = 0.05

_LAUNCHER = Path(__file__).with_name("launch.py")
# The names of worker.training.events and worker.training.engine.parallel, which cannot be imported here.
_PIPES = ("NLFT_EVENTS_FD", "NLFT_CONTROL_FD")
_STORE = "NLFT_STORE_FD"


def main() -> None:
    """Start the processes and wait for all of them."""
    processes = _start_all(int(sys.argv[1]), sys.argv[2:])
    # Who asks the whole group to stop means the first process, and waits for the rest.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    status = _wait_for(processes)
    if status < 0:
        with suppress(OSError):  # nobody may change what SIGKILL does
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def _start_all(count: int, command: list[str]) -> list[subprocess.Popen[bytes]]:
    # The port is taken before anybody is told of it, and only this host can reach it.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        shared = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(listener.getsockname()[1]),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "GLOO_SOCKET_IFNAME": _loopback(),
        }
        os.set_inheritable(listener.fileno(), True)
        first = _start(0, command, os.environ | shared | {_STORE: str(listener.fileno())})
    plain = {name: value for name, value in os.environ.items() if name not in _PIPES}
    for name in _PIPES:
        if name in os.environ:
            os.close(int(os.environ[name]))
    return [first, *(_start(rank, command, plain | shared) for rank in range(1, count))]


def _start(rank: int, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    launch = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid())]
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    # Descriptors stay open: the lock of the slot must be held as long as any of the processes lives.
    return subprocess.Popen([*launch, *command], env=environment | own, close_fds=False)


def _loopback() -> str:
    """Return the name of the interface that the processes reach each other by."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in ("lo", "lo0") if name in names), names[0])


def _wait_for(processes: list[subprocess.Popen[bytes]]) -> int:
    """Return how the run ended: a signal that was not ours, else the first bad status; negative for a signal."""
    ends: dict[int, int] = {}
    deadline = float("inf")
    while len(ends) < len(processes) and time.monotonic() < deadline:
        time.sleep(TICK_SECONDS)
        ends |= {rank: status for rank, one in enumerate(processes) if (status := one.poll()) is not None}
        if any(ends.values()):
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
    for process in processes:
        process.kill()
        process.wait()
    bad = [ends[rank] for rank in sorted(ends) if ends[rank]]
    return next((status for status in bad if status < 0), next(iter(bad), 0))


if __name__ == "__main__":
    main()

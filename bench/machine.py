"""The machine under a benchmark: its class, its cores, the commit, and the CPU time of a process."""

import os
import platform
import subprocess
from pathlib import Path

import psutil

_TICKS = os.sysconf("SC_CLK_TCK")


def machine_class() -> str:
    """Return processor and number of cores, without a host's name."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    named = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return f"{named[0] if named else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def commit() -> str:
    """Return the short name of the commit, with ``+`` when files differ from it; ``unknown`` outside a checkout."""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        return name + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def divide_cores() -> tuple[frozenset[int], frozenset[int]]:
    """Return the quietest core, for the process under test, and the others; where there is one core, both are it."""
    cores = sorted(os.sched_getaffinity(0))
    busy = psutil.cpu_percent(interval=0.5, percpu=True)
    chosen = min(cores, key=lambda core: busy[core])
    return frozenset({chosen}), frozenset(cores) - {chosen} or frozenset({chosen})


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process, all of its threads together, in seconds (resolution 10 ms)."""
    # The second field, the command, may hold spaces; nothing behind its closing bracket does.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def family_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, its living children and those that it has waited for, in seconds."""
    total = 0.0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + (times.children_user + times.children_system if process.pid == pid else 0)
    return total


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

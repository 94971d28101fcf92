"""Becomes the trainer, after asking the kernel to kill it when the worker dies.

Run by path, before any package is importable: ``python -I -S launch.py PARENT_PID COMMAND...``. Doing this in a process
of its own keeps Python code out of the moment between fork and exec of a threaded worker.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set the parent-death signal (Linux), check that the parent still lives, exec the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the worker died before its trainer had started")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()

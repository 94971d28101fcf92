"""Named places where a test can make a process die as if its power had gone; nothing happens unless asked for."""

import os
import signal

VARIABLE = "NLFT_FAILPOINT"


def pass_failpoint(name: str) -> None:
    """Kill this process at once (SIGKILL) when ``NLFT_FAILPOINT`` is ``name``."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)

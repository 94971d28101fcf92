"""The trainers that wait for a job of this process, as the system sees them."""

from contextlib import suppress

import psutil

from app.core.settings import Settings
from tests.worker.scripted_jobs import wait_until
from worker.standby import STAND_BY


def waiting(settings: Settings) -> list[psutil.Process]:
    """Return the living trainers that wait or have waited."""
    found = []
    for process in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            command = process.cmdline()
            if STAND_BY in command and str(settings.workspaces) in command[-1]:
                found.append(process)
    return found


def await_waiting(settings: Settings) -> psutil.Process:
    """Return the one trainer that waits, once it does."""
    wait_until(lambda: len(waiting(settings)) == 1, what="a trainer waits")
    return waiting(settings)[0]


def folder_of(process: psutil.Process) -> str:
    """Return where a process works; nothing once it is dead. One that waits works in a folder of its own."""
    with suppress(psutil.NoSuchProcess):
        return process.cwd()
    return ""

"""The child's side of waiting for a job: everything is imported, no file of a job is open, no device was touched."""

import os
import socket
import sys
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

import msgspec

from worker.training.errors import ExitCode
from worker.training.events import CONTROL_FD, Assignment

READY_FILE = "ready"
_MOST_DESCRIPTORS = 253  # what Linux passes in one message
_decode = msgspec.json.Decoder(Assignment).decode


def await_job(folder: Path, environment: MutableMapping[str, str]) -> Path:
    """Note in ``folder`` that this process is ready, wait for its job and return the job's workspace.

    The job's variables are in ``environment`` from then on, its workspace is the current folder, and the files that
    came with it (locks of its slot and devices) stay open as long as this process and its children live.

    Raises:
        KeyError: The environment names no control channel: there is no parent to wait for.
        SystemExit: The parent is gone.
    """
    control = int(environment[CONTROL_FD])
    (folder / READY_FILE).touch()
    assignment = _receive(control)
    environment.update(assignment.environment)
    tempfile.tempdir = None  # imports have asked for the folder already
    workspace = Path(assignment.workspace)
    os.chdir(workspace)
    return workspace


def _receive(control: int) -> Assignment:
    """Read the assignment and not a byte more: what follows belongs to the run."""
    channel = socket.socket(fileno=control)
    try:
        first, _descriptors, _, _ = socket.recv_fds(channel, 1, _MOST_DESCRIPTORS)
    finally:
        channel.detach()
    if not first:
        sys.exit(ExitCode.DONE)
    with os.fdopen(control, "rb", buffering=0, closefd=False) as unbuffered:
        return _decode(first + unbuffered.readline())

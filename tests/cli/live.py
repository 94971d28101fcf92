"""Runs ``nlft`` as its users do: as a process, on a state directory of its own."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from app.cli.main import main

COMMAND = [sys.executable, "-m", "app.cli.main"]
SWITCHES = ("DATABASE_URL", "BROKER_URL", "STORAGE_URL", "OPENAI_BASE_URL", "OPENAI_API_KEY", "NLFT_API_KEY_PEPPER")


def environment(**extra: str) -> dict[str, str]:
    """Return our environment without what would point elsewhere."""
    return {name: value for name, value in os.environ.items() if name not in SWITCHES} | extra


@dataclass
class Live:
    """A running ``nlft up``."""

    process: "subprocess.Popen[bytes]"
    state: Path

    @property
    def connection(self) -> dict[str, str]:
        record: dict[str, str] = json.loads((self.state / "connection.json").read_text())
        return record

    @property
    def output(self) -> str:
        return (self.state.parent / "up.log").read_text()

    def run(self, *arguments: str, status: int = 0) -> str:
        """Run a command against this service; return its standard output, or error when ``status`` is not 0.

        In this process, as its start would cost more than most commands; the environment is that of a fresh one.
        """
        variables = environment(NLFT_MODEL_CACHE=str(self.state.parent / "models"))
        with (
            patch.dict(os.environ, variables, clear=True),
            redirect_stdout(io.StringIO()) as output,
            redirect_stderr(io.StringIO()) as errors,
        ):
            try:
                main([*arguments, "--state-dir", str(self.state)])
            except SystemExit as end:
                code = end.code or 0
        assert code == status, output.getvalue() + errors.getvalue()
        return (output if status == 0 else errors).getvalue()

    def json(self, *arguments: str) -> Any:
        """Run a command with --json; return what it printed."""
        return json.loads(self.run(*arguments, "--json"))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def live_service(folder: Path, *options: str, **extra: str) -> Iterator[Live]:
    """Start ``nlft up`` below ``folder``, wait until it is ready, and end it whatever happens."""
    state = folder / "state"
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [*COMMAND, "up", "--state-dir", str(state), "--port", "0", "--no-default-model", *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(NLFT_MODEL_CACHE=str(folder / "models"), **extra),
        )
    live = Live(process, state)
    try:
        deadline = time.monotonic() + 120
        while not (state / "connection.json").exists():
            assert process.poll() is None, live.output
            assert time.monotonic() < deadline, live.output
            time.sleep(0.05)
        yield live
    finally:
        if process.poll() is None:
            live.stop()


def processes_of(state: Path) -> list[int]:
    """Return the processes, zombies apart, that have the state directory in their arguments or environment."""
    needle = str(state).encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except (OSError, ProcessLookupError):
            continue
        if needle in text:
            found.append(int(entry.name))
    return found

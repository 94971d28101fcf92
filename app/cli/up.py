"""``nlft up``: the whole service in the foreground."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

from app.cli.options import AsJson, StateDir
from app.cli.output import notes, print_json
from app.cli.service import RunningService, running_service
from app.cli.state import StateDirectory, state_directory
from app.embedded.process import die_with_parent

_WATCH_SECONDS = 0.25


class StopRequested(BaseException):
    """SIGINT or SIGTERM arrived; unwinds everything that was started."""


def up(
    state_dir: StateDir = None,
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = 8000,
    exit_with_parent: Annotated[bool, typer.Option(help="Stop when the process that started this ends.")] = False,
    default_model: Annotated[bool, typer.Option(help="Import SmolLM2-135M-Instruct when it is not registered.")] = True,
    as_json: AsJson = False,
) -> None:
    """Run the whole service in the foreground: PostgreSQL, Valkey, API and worker.

    DATABASE_URL, BROKER_URL and STORAGE_URL each replace an embedded part. Ctrl-C stops everything in order: a running
    job saves a checkpoint and goes on at the next start. A second Ctrl-C ends at once.
    """
    if exit_with_parent:
        die_with_parent(signal.SIGTERM)
    parent = os.getppid()
    state = state_directory(state_dir)
    try:
        with (
            _stop_on_signals(state),
            running_service(state, host, port, wants_model=default_model, report=_report) as service,
        ):
            state.write(state.connection_file, {"base_url": service.base_url, "api_key": service.api_key})
            _greet(service, state, as_json=as_json)
            while not exit_with_parent or os.getppid() == parent:
                service.watch.check()
                time.sleep(_WATCH_SECONDS)
    except StopRequested:
        notes.print("Stopped.")


@contextmanager
def _stop_on_signals(state: StateDirectory) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into ``StopRequested``; a second SIGINT ends the process at once."""
    requests = 0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal requests
        requests += 1
        if requests == 1:
            notes.print("Stopping; Ctrl-C again to end at once.")
            raise StopRequested
        if number == signal.SIGINT:
            state.forget()
            # The kernel ends the children: each was started with a parent-death signal.
            os._exit(128 + number)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _report(line: str) -> None:
    notes.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)


def _greet(service: RunningService, state: StateDirectory, *, as_json: bool) -> None:
    if as_json:
        print_json({"base_url": service.base_url, "connection_file": str(state.connection_file)})
        return
    notes.print(f"\n[bold green]NLFT is ready[/] at [bold]{service.base_url}[/]")
    notes.print(f"  address and API key  {state.connection_file}", highlight=False)
    notes.print(f"  logs                 {state.log('api')}, {state.log('worker')}", highlight=False)
    notes.print("  try                  nlft jobs create --help; Ctrl-C stops everything\n", highlight=False)
    sys.stderr.flush()

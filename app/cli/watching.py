"""Follows a job: its messages as lines, its progress as a bar."""

import time
from collections.abc import Iterator

from openai import OpenAI
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from app.cli.client import Record
from app.cli.output import notes, print_json

_TERMINAL = ("succeeded", "failed", "cancelled")
_POLL_SECONDS = 1.0


def watch_job(client: OpenAI, job_id: str, *, as_json: bool) -> Record:
    """Show what happens to the job until it is terminal; return it. As JSON, one event a line."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"), TimeElapsedColumn())
    seen: set[str] = set()
    with Progress(*columns, console=notes, transient=True, disable=as_json) as progress:
        bar = progress.add_task("queued", total=None, figures="")
        while True:
            # Asked for first: events that come between the two calls are then shown, not lost.
            job = client.fine_tuning.jobs.retrieve(job_id).to_dict()
            for event in _new_events(client, job_id, seen):
                _show(event, progress, as_json=as_json)
            _draw(progress, bar, job)
            if job["status"] in _TERMINAL:
                return job
            time.sleep(_POLL_SECONDS)


def _new_events(client: OpenAI, job_id: str, seen: set[str]) -> Iterator[Record]:
    """Yield events not seen before, oldest first; the API lists the newest first."""
    fresh = []
    for event in client.fine_tuning.jobs.list_events(job_id, limit=100):
        if event.id in seen:
            break
        seen.add(event.id)
        fresh.append(event.to_dict())
    yield from reversed(fresh)


def _show(event: Record, progress: Progress, *, as_json: bool) -> None:
    if as_json:
        print_json(event)
    elif event["type"] == "message":
        style = {"warn": "yellow", "error": "red"}.get(str(event["level"]), "")
        progress.console.print(str(event["message"]), style=style, markup=False, highlight=False)


def _draw(progress: Progress, bar: TaskID, job: Record) -> None:
    service = job.get("service") or {}
    latest = service.get("progress") or {}
    loss = latest.get("train_loss")
    progress.update(
        bar,
        description=service.get("phase") or job["status"],
        total=latest.get("total"),
        completed=latest.get("done", 0),
        figures=f"loss {loss:.3f}" if isinstance(loss, float) else "",
    )

"""`make demo`: tune a real pretrained model through the running service, as any HTTP client would.

Starts ``nlft up`` on a private state directory, then talks to it with the stock ``openai`` client alone: upload,
create, follow, download. Ctrl-C cancels the job and stops the service.
"""

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.cli.archives import unpack

HERE = Path(__file__).parent / "word_problems"
MODEL = "smollm2-135m-instruct"
TERMINAL = ("succeeded", "failed", "cancelled")
SEED = 7
READY_SECONDS = 180.0
# The service reports a job's phase at every renewal of its lease; a person watching wants it sooner than every 15 s.
LIVELY = {"NLFT_RENEW_SECONDS": "2"}

console = Console()


def main() -> int:
    """Run the demo for the methods named on the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Fine-tune SmolLM2-135M-Instruct through the service.")
    parser.add_argument("methods", nargs="*", default=["nlft"], help="training methods to run, one job each")
    parser.add_argument("--state-dir", type=Path, default=Path(".state/demo"))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with service(arguments.state_dir) as client:
            jobs = [run_job(client, method, arguments.state_dir) for method in arguments.methods]
    except KeyboardInterrupt:
        console.print("[yellow]Interrupted: the job was cancelled and the service stopped.[/]")
        return 130
    console.print(results_table(jobs))
    for job in jobs:
        if "folder" in job:
            console.print(f"{job['model']}: adapter in {job['folder']}", soft_wrap=True)
    return 0 if all(job["status"] == "succeeded" for job in jobs) else 1


@contextmanager
def service(state_dir: Path) -> Iterator[OpenAI]:
    """Yield a client of a service started on ``state_dir``; stop the service afterwards."""
    state_dir.mkdir(parents=True, exist_ok=True)
    log_path = state_dir / "demo.log"
    options = ["--state-dir", str(state_dir), "--port", "0", "--exit-with-parent"]
    command = [sys.executable, "-m", "app.cli.main", "up", *options]
    with log_path.open("w") as log, console.status("Starting PostgreSQL, Valkey, the API and a worker …"):
        environment = {**os.environ, **LIVELY}
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
        try:
            connection = wait_until_ready(process, state_dir / "connection.json", log_path)
        except BaseException:
            stop(process)
            raise
    console.print(f"Service ready at [bold]{connection['base_url']}[/] (log: {log_path})")
    try:
        yield OpenAI(base_url=connection["base_url"], api_key=connection["api_key"])
    finally:
        stop(process)


def wait_until_ready(process: "subprocess.Popen[bytes]", connection: Path, log: Path) -> dict[str, str]:
    """Return the connection record once this service, not an earlier one that was killed, has written it.

    Raises:
        SystemExit: The service ended or was not ready in time; the message shows the end of its log.
    """
    started = time.time()
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if connection.exists() and connection.stat().st_mtime >= started:
            record: dict[str, str] = json.loads(connection.read_text())
            return record
        time.sleep(0.1)
    raise SystemExit("The service did not start. Its log ends with:\n" + "\n".join(log.read_text().splitlines()[-20:]))


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask the service to stop and wait for it; a second Ctrl-C meanwhile does not cut this short."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
    finally:
        signal.signal(signal.SIGINT, previous)


def run_job(client: OpenAI, method: str, state_dir: Path) -> dict[str, Any]:
    """Upload, create, follow and download one job; return the figures of the closing table."""
    training_file = upload_once(client, HERE / "train.jsonl")
    validation_file = upload_once(client, HERE / "validation.jsonl")
    settings = {"evaluation": {"max_new_tokens": 80, "batch_size": 50}}
    job = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=training_file,
        validation_file=validation_file,
        seed=SEED,
        suffix=f"demo-{method}",
        extra_body={"method": {"type": method, method: settings}},
    )
    console.print(f"Created job [bold]{job.id}[/] ({method})")
    started = time.monotonic()
    try:
        events = follow(client, job.id)
    except BaseException:
        cancel(client, job.id)
        raise
    job = client.fine_tuning.jobs.retrieve(job.id)
    return figures(client, job, events, time.monotonic() - started, state_dir)


def upload_once(client: OpenAI, path: Path) -> str:
    """Return the id of ``path`` on the service, uploading it unless an equal file is there already."""
    content = path.read_bytes()
    for file in client.files.list(purpose="fine-tune"):
        if (
            file.filename == path.name
            and file.bytes == len(content)
            and client.files.content(file.id).content == content
        ):
            return file.id
    return client.files.create(file=(path.name, content), purpose="fine-tune").id


def follow(client: OpenAI, job_id: str) -> list[dict[str, Any]]:
    """Print a job's messages and draw its progress until it is terminal; return the data of its events."""
    seen: set[str] = set()
    told: list[dict[str, Any]] = []
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=40),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("queued", total=None, figures="")
        while True:
            job = client.fine_tuning.jobs.retrieve(job_id)
            for event in reversed(list(client.fine_tuning.jobs.list_events(job_id, limit=100))):
                if event.id in seen:
                    continue
                seen.add(event.id)
                data: dict[str, Any] = dict(event.data) if isinstance(event.data, dict) else {}
                told.append(data)
                if event.type != "metrics":
                    progress.console.print(f"  [dim]{event.message}[/]")
            draw(progress, bar, job, told)
            if job.status in TERMINAL:
                return told
            time.sleep(1.0)


def draw(progress: Progress, bar: TaskID, job: FineTuningJob, told: list[dict[str, Any]]) -> None:
    """Show the job's phase and how much of it is done; while it trains, its last step and loss."""
    service = (job.model_extra or {}).get("service") or {}
    phase = str(service.get("phase") or job.status)
    done = service.get("progress") or {}
    shown = f"{done['done']}/{done['total']}" if "total" in done else ""
    steps = [data for data in told if "train_loss" in data]
    if phase == "training" and steps:
        done = {"done": steps[-1]["step"], "total": steps[-1]["total_steps"]}
        shown = f"step {done['done']}/{done['total']}  loss {steps[-1]['train_loss']:.3f}"
    progress.update(bar, description=phase, total=done.get("total"), completed=done.get("done", 0), figures=shown)


def cancel(client: OpenAI, job_id: str) -> None:
    """Cancel a job that nobody will wait for, so that it does not run on at the next start."""
    if client.fine_tuning.jobs.retrieve(job_id).status not in TERMINAL:
        client.fine_tuning.jobs.cancel(job_id)


def figures(
    client: OpenAI, job: FineTuningJob, told: list[dict[str, Any]], seconds: float, state_dir: Path
) -> dict[str, Any]:
    """Download a succeeded job's adapter and return what the table shows."""
    row: dict[str, Any] = {"method": job.method.type if job.method else "?", "status": job.status, "seconds": seconds}
    if job.status != "succeeded":
        console.print(f"[red]{job.status}: {job.error.message if job.error else ''}[/]")
        return row
    folder = state_dir / "adapters" / job.id
    archive = client.files.content(job.result_files[1]).content
    unpack(io.BytesIO(archive), folder)
    stages = {item["stage"]: item for item in told if "stage" in item}
    weights = folder / "adapter_model.safetensors"
    return row | {
        "before": stages["before"],
        "after": stages["after"],
        "tokens": job.trained_tokens,
        "bytes": weights.stat().st_size,
        "folder": folder,
        "model": job.fine_tuned_model,
    }


def results_table(rows: list[dict[str, Any]]) -> Table:
    """Return the closing table: a line per figure, a column per job."""
    table = Table("", *(row["method"] for row in rows), title=f"{MODEL} on held-out word problems, seed {SEED}")
    done = [row if row["status"] == "succeeded" else None for row in rows]
    lines: dict[str, Callable[[dict[str, Any]], str]] = {
        "accuracy before": lambda row: accuracy(row["before"]),
        "accuracy after": lambda row: accuracy(row["after"]),
        "trained tokens": lambda row: f"{row['tokens']:,}",
        "wall time": lambda row: f"{row['seconds']:.0f} s",
        "adapter size": lambda row: f"{row['bytes'] / 1e6:.1f} MB",
    }
    table.add_row("status", *(row["status"] for row in rows))
    for name, show in lines.items():
        table.add_row(name, *(show(row) if row else "-" for row in done))
    return table


def accuracy(evaluation: dict[str, Any]) -> str:
    """Return an evaluation as a share and its counts."""
    return f"{evaluation['accuracy']:.1%} ({evaluation['correct']} of {evaluation['total']})"


if __name__ == "__main__":
    sys.exit(main())

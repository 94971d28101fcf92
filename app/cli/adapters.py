"""``nlft adapters``: the results of succeeded jobs."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from openai import OpenAI
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from app.cli import client as api
from app.cli.archives import unpack
from app.cli.options import AsJson, StateDir
from app.cli.output import CommandError, notes, print_record, print_rows

adapters = typer.Typer(name="adapters", help="Finished adapters.", no_args_is_help=True)

_COLUMNS = ("id", "model", "base_model", "fine_tuning_job_id", "bytes", "created_at")


@adapters.command("list")
def list_adapters(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """List the project's newest hundred adapters."""
    with api.connected(state_dir) as client:
        print_rows(api.get(client, "/adapters?limit=100")["data"], _COLUMNS, as_json=as_json)


@adapters.command("download")
def download(
    adapter_id: str,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make; plain `peft` loads it.")],
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Download an adapter as a folder of files."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CommandError(f"{output} exists and is not an empty folder.")
    with api.connected(state_dir) as client, tempfile.NamedTemporaryFile(suffix=".tar") as archive:
        _fetch(client, str(api.get(client, f"/adapters/{adapter_id}")["fine_tuning_job_id"]), Path(archive.name))
        with Path(archive.name).open("rb") as fetched:
            unpack(fetched, output)
    found = sorted(path for path in output.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in found)
    names = [str(path.relative_to(output)) for path in found]
    print_record({"id": adapter_id, "path": str(output.absolute()), "bytes": size, "files": names}, as_json=as_json)


def _fetch(client: OpenAI, job_id: str, target: Path) -> None:
    """Stream the adapter archive of a job, the second of its result files, into ``target`` with a progress bar."""
    archive_id = client.fine_tuning.jobs.retrieve(job_id).result_files[1]
    columns = (TextColumn("Downloading"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        client.files.with_streaming_response.content(archive_id) as answer,
        Progress(*columns, console=notes, transient=True) as progress,
        target.open("wb") as file,
    ):
        bar = progress.add_task("", total=int(answer.headers.get("content-length", 0)) or None)
        for part in answer.iter_bytes(1 << 20):
            file.write(part)
            progress.advance(bar, len(part))

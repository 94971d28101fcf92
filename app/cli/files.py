"""``nlft files``: datasets on the service."""

from pathlib import Path
from typing import Annotated

import typer
from openai import OpenAI
from rich import progress

from app.cli import client as api
from app.cli.options import AsJson, StateDir
from app.cli.output import console, notes, print_record, print_rows

files = typer.Typer(name="files", help="Datasets on the service.", no_args_is_help=True)

_COLUMNS = ("id", "filename", "purpose", "bytes", "created_at")


@files.command("upload")
def upload(
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="JSONL file.")],
    purpose: Annotated[str, typer.Option(help="What the file is for.")] = "fine-tune",
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Upload a dataset; every bad line is reported, and then nothing is stored."""
    with api.connected(state_dir) as client:
        print_record(send_file(client, path, purpose), as_json=as_json)


@files.command("list")
def list_files(
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """List the project's files."""
    with api.connected(state_dir) as client:
        print_rows(api.take(client.files.list(limit=min(limit, 100)), limit), _COLUMNS, as_json=as_json)


@files.command("delete")
def delete(file_id: str, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Delete a file."""
    with api.connected(state_dir) as client:
        answer = client.files.delete(file_id)
    if as_json:
        print_record(answer.to_dict(), as_json=True)
    else:
        console.print(f"Deleted {file_id}.")


def send_file(client: OpenAI, path: Path, purpose: str = "fine-tune") -> api.Record:
    """Upload ``path`` with a progress bar; return the file object."""
    with progress.open(path, "rb", description=f"Uploading {path.name}", console=notes, transient=True) as content:
        return client.files.create(file=(path.name, content), purpose=purpose).to_dict()  # type: ignore[arg-type]  # purposes are the server's to check

"""``nlft jobs``: create, follow and cancel fine-tuning jobs over HTTP."""

from pathlib import Path
from typing import Annotated, Any

import typer
from openai import OpenAI

from app.cli import client as api
from app.cli.files import send_file
from app.cli.options import AsJson, StateDir
from app.cli.output import CommandError, console, print_json, print_record, print_rows, tell_figure
from app.cli.pairs import Pairs, read_pairs
from app.cli.saliency import job_saliency
from app.cli.watching import watch_job

jobs = typer.Typer(name="jobs", help="Fine-tuning jobs.", no_args_is_help=True)
jobs.command("saliency")(job_saliency)

_COLUMNS = ("id", "status", "model", "fine_tuned_model", "created_at")


@jobs.command("create")
def create(
    model: Annotated[str, typer.Option(help="Base model, as in `nlft models list`.")],
    training_file: Annotated[str, typer.Option(help="File id, or a path that is uploaded first.")],
    *,
    validation_file: Annotated[str | None, typer.Option(help="Rows to measure on: file id or path.")] = None,
    method: Annotated[str, typer.Option(help="Training method.")] = "nlft",
    hyperparameter: Annotated[Pairs, typer.Option("--hyperparameter", "-H", help="name=value; repeatable.")] = None,
    adapter: Annotated[Pairs, typer.Option("--adapter", "-A", help="Adapter setting, name=value; repeatable.")] = None,
    evaluation: Annotated[Pairs, typer.Option("--evaluation", "-E", help="name=value; repeatable.")] = None,
    rollout: Annotated[Pairs, typer.Option("--rollout", "-R", help="How responses are sampled, name=value.")] = None,
    rationalization: Annotated[
        Pairs, typer.Option("--rationalization", help="Answers written with the reference shown, as n=4.")
    ] = None,
    judge: Annotated[Pairs, typer.Option("--judge", "-J", help="Who judges wrong responses, as type=self.")] = None,
    mixture: Annotated[Pairs, typer.Option("--mixture", "-M", help="Which rows are trained, name=value.")] = None,
    n_gpus: Annotated[int | None, typer.Option(help="Devices that train together; 1 when absent.")] = None,
    metadata: Annotated[Pairs, typer.Option(help="name=value; repeatable.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Part of the tuned model's name.")] = None,
    seed: Annotated[int | None, typer.Option(help="Drawn at random when absent.")] = None,
    watch: Annotated[bool, typer.Option(help="Follow the job to its end.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Create a job; paths are uploaded first."""
    building = {"rollout": rollout, "rationalization": rationalization, "judge": judge, "mixture": mixture}
    body = _method(method, hyperparameters=hyperparameter, adapter=adapter, evaluation=evaluation, **building)
    if n_gpus is not None:
        body["method"][method]["n_gpus"] = n_gpus
    optional = {
        "suffix": suffix,
        "seed": seed,
        "metadata": {k: str(v) for k, v in read_pairs(metadata).items()} or None,
    }
    body |= {name: value for name, value in optional.items() if value is not None}
    with api.connected(state_dir) as client:
        if validation_file:
            body["validation_file"] = _file_id(client, validation_file)
        file_id = _file_id(client, training_file)
        job = client.fine_tuning.jobs.create(model=model, training_file=file_id, extra_body=body).to_dict()
        if watch:
            job = watch_job(client, str(job["id"]), as_json=as_json)
        print_record(job, as_json=as_json)
    _check_outcome(job)


@jobs.command("estimate")
def estimate(
    model: Annotated[str, typer.Option(help="Base model, as in `nlft models list`.")],
    training_file: Annotated[str, typer.Option(help="File id, or a path that is uploaded first.")],
    *,
    validation_file: Annotated[str | None, typer.Option(help="Rows to measure on: file id or path.")] = None,
    method: Annotated[str, typer.Option(help="Training method.")] = "nlft",
    hyperparameter: Annotated[Pairs, typer.Option("--hyperparameter", "-H", help="name=value; repeatable.")] = None,
    rollout: Annotated[Pairs, typer.Option("--rollout", "-R", help="name=value; repeatable.")] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Say what a job would take and what its rows look like; creates no job. Paths are uploaded first."""
    body = {"model": model, **_method(method, hyperparameters=hyperparameter, rollout=rollout)}
    with api.connected(state_dir) as client:
        if validation_file:
            body["validation_file"] = _file_id(client, validation_file)
        body["training_file"] = _file_id(client, training_file)
        found = client.post("/fine_tuning/jobs/estimate", body=body, cast_to=dict[str, Any])
    if as_json:
        print_json(found)
        return
    figures = [
        {"figure": name, "value": tell_figure(name, figure["value"]), "basis": figure["basis"]}
        for name, figure in found["estimate"].items()
    ]
    print_rows(figures, ("figure", "value", "basis"), as_json=False)
    for name, choice in found["auto"].items():
        console.print(f"[bold]{name}[/] {choice['value']}: {choice['reason']}", soft_wrap=True, highlight=False)
    for advice in found["data"]["advice"]:
        console.print(f"[yellow]{advice['level']}[/] {advice['message']}", soft_wrap=True, highlight=False)


@jobs.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """List the project's jobs."""
    with api.connected(state_dir) as client:
        page = client.fine_tuning.jobs.list(limit=min(limit, 100))
        print_rows(api.take(page, limit), _COLUMNS, as_json=as_json)


@jobs.command("get")
def get(job_id: str, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Show one job."""
    with api.connected(state_dir) as client:
        print_record(client.fine_tuning.jobs.retrieve(job_id).to_dict(), as_json=as_json)


@jobs.command("watch")
def watch_command(job_id: str, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Follow a job to its end; the status is 0 only when it succeeded. With --json: one event a line, then the job."""
    with api.connected(state_dir) as client:
        job = watch_job(client, job_id, as_json=as_json)
        print_record(job, as_json=as_json)
    _check_outcome(job)


@jobs.command("cancel")
def cancel(job_id: str, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Cancel a job; a running one stops within seconds."""
    with api.connected(state_dir) as client:
        print_record(client.fine_tuning.jobs.cancel(job_id).to_dict(), as_json=as_json)


def _file_id(client: OpenAI, text: str) -> str:
    """Return ``text`` when it is an id, otherwise the id of the uploaded path."""
    path = Path(text)
    if path.is_file():
        return str(send_file(client, path)["id"])
    if not text.startswith("file-"):
        raise CommandError(f"There is no file {text}; give a path or a file id.")
    return text


def _method(name: str, **groups: Pairs) -> dict[str, Any]:
    """Return the method block of a body, without groups that nothing was given for."""
    settings = {group: values for group, given in groups.items() if (values := read_pairs(given))}
    return {"method": {"type": name, name: settings}}


def _check_outcome(job: api.Record) -> None:
    if job["status"] in ("failed", "cancelled"):
        raise typer.Exit(1)

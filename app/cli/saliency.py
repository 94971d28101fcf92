"""``nlft saliency`` and ``nlft jobs saliency``: what every token of a row is worth, in colour."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from openai import OpenAI

from app.cli import client as api
from app.cli.options import AsJson, StateDir
from app.cli.output import CommandError, console, notes, print_json
from app.cli.pairs import Pairs, read_pairs
from app.cli.token_colors import View, draw_figures, draw_legend, draw_record
from worker.training.saliency_record import SaliencyRecord

_ROUTE = "/fine_tuning/saliency"
_MOST_RECORDS = 100
Shown = Annotated[View, typer.Option("--view", help="What the colour shows.")]
Figures = Annotated[bool, typer.Option("--figures", help="Also print every token's figures.")]


def saliency(
    path: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="Rows, or saliency records, as JSONL.")
    ],
    model: Annotated[str | None, typer.Option(help="Base or tuned model; default: the only base model.")] = None,
    *,
    method: Annotated[str, typer.Option(help="Whose weights to show.")] = "nlft",
    hyperparameter: Annotated[Pairs, typer.Option("--hyperparameter", "-H", help="name=value; repeatable.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Prompt set of the guided contexts.")] = None,
    first: Annotated[int, typer.Option(min=1, help="From which row on.")] = 1,
    limit: Annotated[int, typer.Option(min=1, help="How many rows.")] = 8,
    view: Shown = "weight",
    figures: Figures = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what a method makes of every token of a file's rows, without training; records are shown as they are."""
    rows = _read_rows(path)[first - 1 : first - 1 + limit]
    if not rows:
        raise CommandError(f"{path} has no row {first}.")
    if "tokens" in rows[0]:
        _show(rows, view=view, figures=figures, as_json=as_json)
        return
    body: dict[str, Any] = {"examples": rows, "method": method, "hyperparameters": read_pairs(hyperparameter)}
    if prompts is not None:
        body["prompts"] = prompts
    with api.connected(state_dir) as client:
        body["model"] = model or _only_base_model(client)
        with notes.status(f"Asking a worker about {len(rows)} row(s)"):
            answer: api.Record = client.post(_ROUTE, body=body, cast_to=dict[str, Any])
    if as_json:
        print_json(answer)
        return
    for record in answer["data"]:
        record["example"]["file_line"] += first - 1
    _show(answer["data"], view=view, figures=figures, as_json=False)
    usage = answer["usage"]
    tokens = f"{usage['scored_tokens']} tokens scored, {usage['cached_tokens']} known"
    notes.print(f"{answer['model']}, {answer['method']}: {tokens}, {usage['seconds']:.2f} s", style="dim")


def job_saliency(
    job_id: str,
    *,
    step: Annotated[int | None, typer.Option(min=0, help="Of this optimizer step only.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many records.")] = 20,
    view: Shown = "weight",
    figures: Figures = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Show a job's pinned examples, token by token, at step 0, at its checkpoints and at the end."""
    found: list[api.Record] = []
    with api.connected(state_dir) as client:
        has_more, after = True, ""
        while has_more and len(found) < limit:
            query = f"limit={min(limit - len(found), _MOST_RECORDS)}{after}" + ("" if step is None else f"&step={step}")
            page = api.get(client, f"/fine_tuning/jobs/{job_id}/saliency?{query}")
            found += page["data"]
            has_more, after = page["has_more"], f"&after={page['last_id']}"
    if not found and not as_json:
        notes.print("Nothing was recorded yet.")
        return
    _show(found, view=view, figures=figures, as_json=as_json)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise CommandError(f"{path}, line {number}: not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise CommandError(f"{path}, line {number}: a row must be a JSON object.")
        rows.append(row)
    return rows


def _only_base_model(client: OpenAI) -> str:
    names = [model.id for model in client.models.list() if model.owned_by == "system"]
    if len(names) != 1:
        raise CommandError(f"Name a model with --model; base models: {', '.join(names) or 'none yet'}.")
    return names[0]


def _show(rows: Sequence[api.Record], *, view: View, figures: bool, as_json: bool) -> None:
    if as_json:
        print_json(list(rows))
        return
    try:
        records = msgspec.convert(rows, list[SaliencyRecord])
    except msgspec.ValidationError as error:
        raise CommandError(f"These are no saliency records: {error}.") from error
    console.print(draw_legend())
    for record in records:
        console.print()
        console.print(draw_record(record, view=view))
        if figures:
            console.print(draw_figures(record))

"""``nlft models``: the base models that jobs may name."""

from typing import Annotated

import typer

from app.cli.model_import import ModelImport
from app.cli.operator import operating
from app.cli.options import AsJson, StateDir
from app.cli.output import notes, print_record, print_rows
from app.models import service

models = typer.Typer(name="models", help="Base models that jobs may name.", no_args_is_help=True)

_FIELDS = ("id", "architecture", "parameters", "context_length", "digest", "path")
_COLUMNS = ("id", "architecture", "parameters", "context_length", "path")


@models.command("import")
def import_model(
    source: Annotated[str, typer.Argument(help="Hugging Face folder, .gguf file, or a package that ships one.")],
    name: Annotated[str | None, typer.Option(help="Name that jobs give; default: the source's own.")] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Import a base model into the model cache and allow it."""
    with operating(state_dir) as operator:
        cache = operator.settings.model_cache.expanduser()
        with ModelImport(source, cache, name) as running, notes.status(f"importing {source}") as status:
            facts = running.facts(lambda line: status.update(f"importing {source}: {line}"))
        row = service.register_base_model(operator.session, facts)
        print_record({field: getattr(row, field) for field in _FIELDS}, as_json=as_json)


@models.command("list")
def list_models(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """List the allowed base models."""
    with operating(state_dir) as operator:
        rows = [{field: getattr(row, field) for field in _FIELDS} for row in service.list_base_models(operator.session)]
        print_rows(rows, _COLUMNS, as_json=as_json)

"""Entry point of ``nlft``: every command in one list, and errors as sentences."""

import sys
from collections.abc import Sequence

import typer

from app.cli.adapters import adapters
from app.cli.files import files
from app.cli.jobs import jobs
from app.cli.migrate import migrate
from app.cli.models import models
from app.cli.output import CommandError, notes
from app.cli.projects import keys, projects
from app.cli.saliency import saliency
from app.cli.serve import serve
from app.cli.up import up
from app.core.errors import ServiceError
from app.embedded.errors import EmbeddedServerError

cli = typer.Typer(
    help="Self-hosted fine-tuning service.", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False
)
cli.command("up")(up)
cli.command("serve")(serve)
cli.command("migrate")(migrate)
cli.command("saliency")(saliency)
for group in (files, jobs, adapters, models, projects, keys):
    cli.add_typer(group, name=group.info.name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``nlft``, by default with the process's arguments; a known error is one sentence and status 1."""
    try:
        cli(args=arguments)
    except (CommandError, EmbeddedServerError, ServiceError) as error:
        notes.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

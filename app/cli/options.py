"""Options that every command shares."""

from pathlib import Path
from typing import Annotated

import typer

StateDir = Annotated[
    Path | None,
    typer.Option(
        help="State directory of the service; default NLFT_STATE_DIR or ~/.local/state/nlft.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

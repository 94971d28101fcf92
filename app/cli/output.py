"""What commands print: tables or JSON on standard output; progress, notes and errors on standard error."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

# Output that goes to a program or a file is not folded to the width of a screen.
_FILE_WIDTH = 400

console = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
notes = Console(stderr=True)


class CommandError(Exception):
    """Ends the command with status 1; the message names the remedy.

    Args:
        message: What is wrong, and what to do.
    """


def print_json(value: Any) -> None:
    """Print ``value`` as one JSON document: a single line unless a person reads it."""
    sys.stdout.write(json.dumps(value, indent=2 if sys.stdout.isatty() else None) + "\n")
    sys.stdout.flush()


def print_record(record: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one object, as JSON or as a line for each field that has a value."""
    if as_json:
        print_json(record)
        return
    for name, value in record.items():
        if value not in (None, "", [], {}):
            console.print(f"[bold]{name}[/]: {_text(name, value)}", soft_wrap=True, highlight=False)


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print objects, as a JSON list of everything or as a table of ``columns``."""
    if as_json:
        print_json(list(rows))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*[_text(column, row.get(column)) for column in columns])
    console.print(table)


def tell_figure(name: str, value: float) -> str:
    """Return a figure of an estimate in units that a person reads."""
    if name.endswith("seconds"):
        minutes, seconds = divmod(round(value), 60)
        return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    if name.endswith("bytes"):
        return f"{value / 1e9:.1f} GB"
    return f"{value:,.0f}"


def _text(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name.endswith("_at") and isinstance(value, int):
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return json.dumps(value) if isinstance(value, dict | list) else str(value)

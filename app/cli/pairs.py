"""Settings given on the command line as ``name=value``."""

import json
from typing import Any

from app.cli.output import CommandError

Pairs = list[str] | None


def read_pairs(given: Pairs) -> dict[str, Any]:
    """Return ``name=value`` texts as a mapping; a value that is JSON is read as such."""
    found: dict[str, Any] = {}
    for text in given or []:
        name, separator, value = text.partition("=")
        if not separator:
            raise CommandError(f"{text!r} must have the form name=value.")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found

"""Whether a JSON value can be kept as it is: what the database and a JSON encoder refuse is refused at the door."""

import math
from typing import Any

DEEPEST = 16


def find_fault(value: Any) -> str | None:
    """Return what is wrong with ``value`` somewhere inside, or None; walks without recursion, so depth is no danger."""
    pending = [(value, 0)]
    while pending:
        part, depth = pending.pop()
        if depth > DEEPEST:
            return f"nested more than {DEEPEST} levels deep"
        if isinstance(part, dict):
            pending += [(inner, depth + 1) for pair in part.items() for inner in pair]
        elif isinstance(part, list):
            pending += [(inner, depth + 1) for inner in part]
        elif fault := _fault_of_scalar(part):
            return fault
    return None


def _fault_of_scalar(value: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return "numbers must be finite"
    if not isinstance(value, str):
        return None
    if "\x00" in value:
        return "text must not contain the character U+0000"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "text must be valid Unicode, without unpaired surrogates"
    return None

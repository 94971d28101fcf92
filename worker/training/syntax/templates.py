"""Text with ``{{ item.reference }}`` in it: names looked up in given values, and nothing else.

There are no expressions, filters or statements, so that a template can neither run code nor take long.
A name is ``item`` or ``sample``, then fields (``.answer``, ``['the answer']``) and list positions (``[0]``).
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

SAMPLE_FIELDS = ("output_text", "output_json", "output_tools")
ROW_FIELDS = ("messages", "question", "reference", "judgment", "tools")
"""What ``item`` has when it is a row of a training file; ``question`` is the text of the last user turn."""

Path = tuple[str | int, ...]

_LONGEST_TEXT = 1_000_000  # a value may be long and its name stand in a template a thousand times

_SLOT = re.compile(r"\{\{([^{}]*)\}\}")
_STEP = re.compile(r"""\.(?P<field>\w+)|\[(?P<index>\d{1,9})\]|\[(?P<quote>['"])(?P<key>[^'"\]]*)(?P=quote)\]""")
_ROOT = re.compile(r"[A-Za-z_]\w*")


class TemplateError(ValueError):
    """A template that is not written well, or a name that its values lack."""


def check_template(template: str) -> str:
    """Return ``template``.

    Raises:
        TemplateError: A brace without partner, something other than a name, or a name that no value can have.
    """
    _parse(template)
    return template


def check_row_template(template: str) -> str:
    """Return ``template``, whose ``item`` is a row of a training file.

    Raises:
        TemplateError: As ``check_template``, and for a name that no row has.
    """
    for path in _parse(template):
        if isinstance(path, tuple) and path[0] == "item" and (len(path) == 1 or path[1] not in ROW_FIELDS):
            raise TemplateError(f"there is no {spell(path)}; the item of a row has {', '.join(ROW_FIELDS)}")
    return template


def render(template: str, values: Mapping[str, Any]) -> str:
    """Return ``template`` with every name replaced: text as it is, null as nothing, anything else as JSON.

    Args:
        template: Checked by ``check_template`` before.
        values: ``item`` and ``sample``.

    Raises:
        TemplateError: A name is not in ``values`` (the message has the name and no value), or the text grows too long.
    """
    pieces, length = [], 0
    for part in _parse(template):
        pieces.append(part if isinstance(part, str) else _shown(_look_up(part, values)))
        length += len(pieces[-1])
        if length > _LONGEST_TEXT:
            raise TemplateError(f"the text would have more than {_LONGEST_TEXT:,} characters")
    return "".join(pieces)


def spell(path: Path) -> str:
    """Return a name as a template writes it."""
    return str(path[0]) + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path[1:])


@lru_cache(maxsize=256)
def _parse(template: str) -> tuple[str | Path, ...]:
    """Return literal texts and names, taking turns."""
    pieces = _SLOT.split(template)
    literals, names = pieces[::2], pieces[1::2]
    for literal in literals:
        if "{{" in literal or "{%" in literal or "}}" in literal:
            raise TemplateError(
                "braces do not match; a template knows {{ item.FIELD }} and {{ sample.output_text }} alone"
            )
    parts: list[str | Path] = [literals[0]]
    for name, literal in zip(names, literals[1:], strict=True):
        parts += [_path(name.strip()), literal]
    return tuple(parts)


def _path(name: str) -> Path:
    root = _ROOT.match(name)
    if root is None:
        raise TemplateError(f"'{name[:60]}' is not a name such as item.reference or sample.output_text")
    steps: list[str | int] = [root.group()]
    at = root.end()
    while at < len(name):
        step = _STEP.match(name, at)
        if step is None:
            raise TemplateError(f"'{name[:60]}' is not a name: only .field and [0] may follow {name[:at]}")
        steps.append(int(step["index"]) if step["index"] else step["field"] or step["key"])
        at = step.end()
    _check_root(name, steps)
    return tuple(steps)


def _check_root(name: str, steps: list[str | int]) -> None:
    if steps[0] not in {"item", "sample"}:
        raise TemplateError(f"unknown name '{name[:60]}'; names begin with item or sample")
    if steps[0] == "sample" and (len(steps) == 1 or steps[1] not in SAMPLE_FIELDS):
        raise TemplateError(f"unknown name '{name[:60]}'; a sample has {', '.join(SAMPLE_FIELDS)}")


def _look_up(path: Path, values: Mapping[str, Any]) -> Any:
    value: Any = values
    for depth, step in enumerate(path):
        fields = dict(enumerate(value)) if isinstance(value, list) else value
        if not isinstance(fields, Mapping) or step not in fields:
            known = f"; {spell(path[:depth])} has {_names(value)}" if depth and isinstance(value, Mapping) else ""
            raise TemplateError(f"there is no {spell(path[: depth + 1])}{known}")
        value = fields[step]
    return value


def _names(value: Mapping[str, Any]) -> str:
    shown = [str(name) for name in list(value)[:10]]
    return ", ".join(shown) if shown else "no fields"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

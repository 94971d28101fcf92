"""The cheap proofs against the parser: what they call unique repeats no key, and plain rows need no second look."""

import json
import random
from typing import Any

import msgspec
import pytest

from worker.training.data.diagnosis import diagnose
from worker.training.data.examples import EXAMPLE_TYPES, ChatExample, CompletionExample, Example, NLFTExample, RowFormat
from worker.training.data.unique_keys import has_unique_keys

TEXTS = ("a", 'say "hi"', "back\\slash", "\\", '\\"', "line\nbreak", "\u00e9\u4f60", 'role": "user', "", '","role":"')


def pairs_to_json(value: Any, *, ascii_only: bool) -> str:
    """Return JSON of nested lists and of objects given as lists of pairs, which may repeat a key."""
    if isinstance(value, tuple):
        inner = (f"{json.dumps(key)}: {pairs_to_json(item, ascii_only=ascii_only)}" for key, item in value)
        return "{" + ", ".join(inner) + "}"
    if isinstance(value, list):
        return "[" + ",".join(pairs_to_json(item, ascii_only=ascii_only) for item in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


def draw_row(draw: random.Random, row_format: RowFormat) -> Any:
    """Return an object as pairs, often with keys repeated, left out or null."""

    def text() -> str | None:
        return draw.choice(TEXTS) if draw.random() < 0.9 else None

    def some(*pairs: tuple[str, Any]) -> tuple[tuple[str, Any], ...]:
        return tuple(pair for pair in pairs for _ in range(draw.choice((1, 1, 1, 1, 1, 0, 2))))

    if row_format == "completion":
        return some(("prompt", text()), ("completion", text()))
    messages = [some(("role", role), ("content", text())) for role in ("user", "assistant")[: draw.randint(1, 2)]]
    if row_format == "chat":
        return some(("messages", messages))
    return some(
        ("messages", messages), ("response", text()), ("reference", text()), ("correct", draw.choice((True, None)))
    )


@pytest.mark.parametrize("row_format", ["nlft", "chat", "completion"])
def test_no_line_with_a_repeated_key_is_called_unique(row_format: RowFormat) -> None:
    draw = random.Random(row_format)
    unique = repeated = 0
    for _ in range(4000):
        line = pairs_to_json(draw_row(draw, row_format), ascii_only=draw.random() < 0.5).encode()
        try:
            row: Example = msgspec.json.decode(line, type=EXAMPLE_TYPES[row_format])
        except msgspec.MsgspecError:
            continue
        if any(fault.code == "duplicate_key" for fault in diagnose(line, row_format)):
            repeated += 1
            assert not has_unique_keys(line, row), line
        elif has_unique_keys(line, row):
            unique += 1
    assert unique > 300
    assert repeated > 300


@pytest.mark.parametrize(
    ("line", "row_type"),
    [
        (
            b'{"messages": [{"role": "user", "content": "say \\"hi\\"\\n"}], "response": "a", "correct": true}',
            NLFTExample,
        ),
        (b'{"messages": [{"role": "user", "content": "q"}], "response": "a", "judgment": null}', NLFTExample),
        (b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "role"}]}', ChatExample),
        (b'{"prompt": "p \\u00e9", "completion": "c"}', CompletionExample),
    ],
)
def test_plain_rows_are_proved(line: bytes, row_type: type[Example]) -> None:
    row: Example = msgspec.json.decode(line, type=row_type)
    assert has_unique_keys(line, row)

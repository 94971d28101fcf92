"""Stretches of plain chat rows that are proved sound together: most of what is uploaded, for a fraction of the work.

What the usual encoders write is read by a compiled scan (``_plain_scan.c``), which makes no object for it. What it
leaves, or everything where it was not built, goes to a typed decode: the types leave room for few faults, and what is
left is asked of many rows at once. What neither proves is not wrong: the reader goes from line to line then.
"""

import io
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Literal, NamedTuple

import msgspec

from worker.training.data.examples import ChatExample, Message
from worker.training.data.unique_keys import holds_no_more

try:
    from worker.training.data import _plain_scan
except ImportError:  # built where there is a C compiler
    _plain_scan = None  # type: ignore[assignment]


class PlainMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A turn of role and text, and nothing else."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str


class PlainRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A chat row of plain messages without tools; unlike a ``ChatExample`` it has a hash."""

    messages: tuple[PlainMessage, ...]


class ProvedRows(NamedTuple):
    """Sound rows, one a line.

    Attributes:
        keys: A number for each row; equal rows have the same, however they are written.
        trained_turns: How many turns of theirs are trained.
        end: Where the first line begins that is not proved.
    """

    keys: list[int]
    trained_turns: int
    end: int


_decode = msgspec.json.Decoder(PlainRow).decode
_encode = msgspec.json.Encoder().encode
_messages_of = attrgetter("messages")
_role_of = attrgetter("role")
_content_of = attrgetter("content")
_last_of = itemgetter(-1)


def prove_plain_rows(chunk: bytes, start: int, end: int) -> ProvedRows:
    """Return the plain rows that the complete lines from ``start`` to ``end`` begin with, none when none is proved."""
    found = _scan(chunk, start, end)
    return found if found.keys else _decode_all(chunk, start, end) or found


def row_key(row: PlainRow) -> int:
    """Return the key of ``row`` in ``ProvedRows``."""
    line = _encode(row) + b"\n"
    found = _scan(line, 0, len(line))
    return found.keys[0] if found.keys else hash(row)


def _scan(chunk: bytes, start: int, end: int) -> ProvedRows:
    return ProvedRows([], 0, start) if _plain_scan is None else ProvedRows(*_plain_scan.scan(chunk, start, end))


def _decode_all(chunk: bytes, start: int, end: int) -> ProvedRows | None:
    """Return all rows from ``start`` to ``end``; None when not each is proved.

    Few steps of the interpreter are taken for a row, none for a turn: they would cost as much as the decoder does.
    """
    source = io.BytesIO(chunk)  # shares the bytes
    source.seek(start)
    lines = source.readlines()
    if end < len(chunk):
        lines.pop()
    try:
        rows = list(map(_decode, lines))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    messages = list(map(_messages_of, rows))
    turns = list(chain.from_iterable(messages))
    texts = list(map(_content_of, turns))
    if not holds_no_more(chunk, len(rows) + 3 * len(turns), texts, start, end):
        return None  # one may be a key that is repeated
    if not (_end_with_answers(messages) and _hold_text(texts)) and not all(map(_is_sound, rows)):
        return None
    return ProvedRows(list(map(row_key, rows)), list(map(_role_of, turns)).count("assistant"), end)


def _end_with_answers(messages: list[tuple[PlainMessage, ...]]) -> bool:
    return all(messages) and {"assistant"}.issuperset(map(_role_of, map(_last_of, messages)))


def _hold_text(texts: list[str]) -> bool:
    return all(texts) and not any(map(str.isspace, texts))


def _is_sound(row: PlainRow) -> bool:
    answers = [turn.content for turn in row.messages if turn.role == "assistant"]
    return bool(answers) and _hold_text(answers)


def find_plain_row(row: ChatExample) -> PlainRow | None:
    """Return ``row`` as the plain row that says the same, or None when it says more."""
    if row.tools is not None or row.parallel_tool_calls is not None:
        return None
    plain = []
    for message in row.messages:
        role, content = message.role, message.content
        if role == "tool" or not isinstance(content, str) or message != Message(role, content):
            return None
        plain.append(PlainMessage(role, content))
    return PlainRow(tuple(plain))

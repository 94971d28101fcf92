"""Stretches of plain chat rows that are proved sound together: most of what is uploaded, for half of the work.

The types leave room for few faults, and the decoder finds those; what is left is asked of many rows at once. What is
not proved is not wrong: the reader goes from line to line then.
"""

import io
from typing import Literal, NamedTuple

import msgspec

from worker.training.data.examples import ChatExample, Message
from worker.training.data.unique_keys import count_strings


class PlainMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A turn of role and text, and nothing else."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str


class PlainRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A chat row of plain messages without tools; unlike a ``ChatExample`` it has a hash."""

    messages: tuple[PlainMessage, ...]


class PlainRows(NamedTuple):
    """Sound ``rows``, one a line, and how many of their turns are trained."""

    rows: list[PlainRow]
    trained_turns: int


_decode = msgspec.json.Decoder(PlainRow).decode


def read_plain_rows(stretch: bytes) -> PlainRows | None:
    """Return the rows of ``stretch``, complete lines; None when not every line is proved to be a sound plain row."""
    try:
        rows = [_decode(line) for line in io.BytesIO(stretch).readlines()]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if count_strings(stretch) != sum([1 + 4 * len(row.messages) for row in rows]):
        return None  # more strings than keys, roles and texts: one may be a key that is repeated
    answers = [[turn.content for turn in row.messages if turn.role == "assistant"] for row in rows]
    if not all(answers) or any(not text or text.isspace() for texts in answers for text in texts):
        return None
    return PlainRows(rows, sum(map(len, answers)))


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

"""Proofs that no JSON object in a line repeats a key, cheap enough for every line.

What they cannot prove is not wrong: such a line is parsed once more, by ``diagnosis``.
"""

import re
from sys import maxsize

from worker.training.data.examples import EXAMPLE_TYPES, CompletionExample, Example, Message, NLFTExample

_ROW_KEYS = {
    row_type: tuple(f'"{name}"'.encode() for name in row_type.__struct_fields__) for row_type in EXAMPLE_TYPES.values()
}
# What no message that is plain text has, nor a chat row without tools.
_RARE_KEYS = re.compile(rb'"(?:name|tool_calls|tool_call_id|weight|refusal|tools)"')
# An escaped NUL, or an escaped letter that could hide a repeated key (`m`, `_`).
_SUSPICIOUS_ESCAPE = re.compile(rb"\\u00(?:00|5[fF]|6|7)")
_DENSE_BYTES = 16  # a count is faster where quotes stand closer


def has_unique_keys(line: bytes, row: Example) -> bool:
    """Return whether the bytes prove that no object of ``line`` repeats a key; False means "look closer".

    A line with no more strings than the keys and texts of ``row`` has none left for a repeated key. Other lines, such
    as those with nulls, may yet be proved by the names of their keys.
    """
    counted = _count_strings(row)
    return (counted is not None and holds_no_more(line, *counted)) or _repeats_no_name(line, row)


def holds_no_more(json: bytes, others: int, texts: list[str], start: int = 0, end: int = maxsize) -> bool:
    """Return whether ``json``, valid from ``start`` to ``end``, holds ``texts``, ``others`` strings and none besides.

    Quotes inside strings are escaped, and the texts, all that may have any, tell how many those are. False also where
    that is left open, and where a text has a NUL in it.
    """
    quotes = 2 * (others + len(texts))
    if json.find(b"\\", start, end) >= 0:
        if json.find(b"\\u0022", start, end) >= 0:
            return False  # a quote in a text that is none in the line
        text = "".join(texts)
        if "\0" in text:
            return False
        quotes += text.count('"')
    return _holds_at_most(quotes, json, start, end)


def _holds_at_most(quotes: int, json: bytes, start: int, end: int) -> bool:
    """Return whether no more ``quotes`` are in ``json`` from ``start`` to ``end``; where they are few in half the time.

    A replacement goes from quote to quote, faster than a count goes from byte to byte, and leaves those that are left.
    """
    if quotes * _DENSE_BYTES > len(json):
        return json.count(b'"', start, end) <= quotes
    around = json.count(b'"', 0, start) + json.count(b'"', end)
    return b'"' not in json.replace(b'"', b"'", quotes + around)


def _count_strings(row: Example) -> tuple[int, list[str]] | None:
    """Return how many keys and roles a line that reads as ``row`` must hold, and its texts; None where that is rare."""
    if isinstance(row, CompletionExample):
        return 2, [row.prompt, row.completion]
    texts = [message.content for message in row.messages if type(message.content) is str]
    if len(texts) < len(row.messages):
        return None
    others = 1 + 3 * len(texts)  # role, with its key, and the key of the content
    if isinstance(row, NLFTExample):
        further = [text for text in (row.response, row.reference, row.judgment) if text is not None]
        texts += further
        others += len(further) + (row.correct is not None)
    return others, texts


def _repeats_no_name(line: bytes, row: Example) -> bool:
    """Return whether key names, counted in ``line``, leave no room for a repetition.

    Quotes inside JSON strings are escaped, so ``"role"`` occurs in a line only as a whole string: a key or a value. As
    many of them as there are messages leaves no room for a repetition. Rows with rarer fields are looked at closely.
    """
    if b"\\u00" in line and _SUSPICIOUS_ESCAPE.search(line):
        return False
    if any(line.count(key) > 1 for key in _ROW_KEYS[type(row)]):
        return False
    return isinstance(row, CompletionExample) or _has_plain_messages(line, row.messages)


def _has_plain_messages(line: bytes, messages: list[Message]) -> bool:
    if not all(type(message.content) is str for message in messages):
        return False
    counted = len(messages)
    return line.count(b'"role"') == line.count(b'"content"') == counted and not _RARE_KEYS.search(line)

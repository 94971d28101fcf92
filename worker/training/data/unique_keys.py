"""Proofs that no JSON object in a line repeats a key, cheap enough for every line.

What they cannot prove is not wrong: such a line is parsed once more, by ``diagnosis``.
"""

import re

from worker.training.data.examples import EXAMPLE_TYPES, CompletionExample, Example, Message, NLFTExample

_ROW_KEYS = {
    row_type: tuple(f'"{name}"'.encode() for name in row_type.__struct_fields__) for row_type in EXAMPLE_TYPES.values()
}
# What no message that is plain text has, nor a chat row without tools.
_RARE_KEYS = re.compile(rb'"(?:name|tool_calls|tool_call_id|weight|refusal|tools)"')
# An escaped NUL, or an escaped letter that could hide a repeated key (`m`, `_`).
_SUSPICIOUS_ESCAPE = re.compile(rb"\\u00(?:00|5[fF]|6|7)")


def has_unique_keys(line: bytes, row: Example) -> bool:
    """Return whether the bytes prove that no object of ``line`` repeats a key; False means "look closer".

    A line with no more strings than the keys and texts of ``row`` has none left for a repeated key. Other lines, such
    as those with nulls, may yet be proved by the names of their keys.
    """
    return count_strings(line) == _least_strings(row) or _repeats_no_name(line, row)


def count_strings(text: bytes) -> int:
    """Return how many JSON strings valid JSON holds; -1 where one of them has a NUL in it."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"")  # pairs of backslashes; what is left of any before a quote escapes it
        if b"\\u0000" in text:
            return -1
        return (text.count(b'"') - text.count(b'\\"')) // 2
    return text.count(b'"') // 2


def _least_strings(row: Example) -> int:
    """Return how many strings a line must hold that reads as ``row``, or fewer; 0 where that is not worth counting."""
    if isinstance(row, CompletionExample):
        return 4
    messages = row.messages
    for message in messages:
        if type(message.content) is not str:
            return 0
    count = 1 + 4 * len(messages)  # role and content, each with its key
    if isinstance(row, NLFTExample):
        texts = (row.response, row.reference, row.judgment)
        count += 2 * (3 - texts.count(None)) + (row.correct is not None)
    return count


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

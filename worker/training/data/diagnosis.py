"""Says what is wrong with a line that is not plainly a sound row. Slow and thorough, behind the reader's fast path.

Works on the parsed JSON rather than on typed rows, so that one line can report several faults, each with its path.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Any, get_args

import msgspec

from worker.training.data.examples import EXAMPLE_TYPES, Role, RowFormat
from worker.training.data.row_checks import Fault, find_faults

FAULTS_PER_LINE = 20
MAX_DEPTH = 64

_NLFT_KEYS = frozenset({"response", "reference", "judgment", "correct"})
_CHAT_KEYS = frozenset({"tools", "parallel_tool_calls"})
_COMPLETION_KEYS = frozenset({"prompt", "completion"})
_FORMAT_NAMES: Mapping[RowFormat, str] = {"nlft": "an NLFT row", "chat": "a chat row", "completion": "a completion row"}

_Check = Callable[[Any, str], Iterator[Fault]]


def diagnose(line: bytes, file_format: RowFormat | None) -> list[Fault]:
    """Return the faults of ``line``, at most ``FAULTS_PER_LINE``; none when it is a sound row after all.

    Args:
        line: One line of the file without its newline.
        file_format: What the rows before were, or None when no row has told yet.
    """
    parsed = _parse(line)
    return (
        [parsed] if isinstance(parsed, Fault) else list(islice(_object_faults(*parsed, file_format), FAULTS_PER_LINE))
    )


def find_format(line: bytes) -> RowFormat | None:
    """Return the format that the keys of ``line`` tell, or None when they do not or it is no object."""
    parsed = _parse(line)
    if isinstance(parsed, Fault) or not isinstance(parsed[0], dict):
        return None
    return _told_format(parsed[0])


def _parse(line: bytes) -> tuple[Any, list[str]] | Fault:
    """Return the JSON value and the keys that some object repeats, or why there is none."""
    if line.startswith(b"\xef\xbb\xbf"):
        return Fault(
            "", "byte_order_mark", "the line starts with a byte order mark; save the file as UTF-8 without one"
        )
    repeated: list[str] = []

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) < len(pairs):
            seen: set[str] = set()
            repeated.extend(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        return built

    try:
        return json.loads(line.decode(), object_pairs_hook=build, parse_constant=_refuse_constant), repeated
    except (ValueError, RecursionError, _ConstantError) as error:
        return _parse_fault(error)


def _parse_fault(error: Exception) -> Fault:
    if isinstance(error, UnicodeDecodeError):
        return Fault("", "not_utf8", "the line is not UTF-8 text; save the file as UTF-8")
    if isinstance(error, RecursionError):
        return Fault("", "too_deep", f"the JSON is nested too deeply; the limit is {MAX_DEPTH} levels")
    if isinstance(error, _ConstantError):
        return Fault("", "not_finite", "NaN and Infinity are not JSON; use null or a number")
    if isinstance(error, json.JSONDecodeError):
        return Fault("", "invalid_json", f"not valid JSON near column {error.colno}; write one JSON object a line")
    return Fault("", "invalid_json", "the line holds a number with too many digits")


class _ConstantError(Exception):
    """The line holds NaN, Infinity or -Infinity."""


def _refuse_constant(_name: str) -> None:
    raise _ConstantError


def _told_format(row: dict[str, Any]) -> RowFormat | None:
    """Return the format that the keys tell; bare messages are a chat row with an assistant turn, else undecided."""
    keys = row.keys()
    if keys & _NLFT_KEYS:
        return "nlft"
    if keys & _COMPLETION_KEYS:
        return "completion"
    if keys & _CHAT_KEYS:
        return "chat"
    messages = row.get("messages")
    turns = messages if isinstance(messages, list) else []
    return "chat" if any(isinstance(turn, dict) and turn.get("role") == "assistant" for turn in turns) else None


def _object_faults(row: Any, repeated: list[str], file_format: RowFormat | None) -> Iterator[Fault]:
    if not isinstance(row, dict):
        yield Fault("", "not_an_object", "the line is JSON but no object; write one object {...} a line")
        return
    for key in repeated:
        yield Fault(_shown(key), "duplicate_key", f"the key `{_shown(key)}` occurs twice in one object; keep one")
    hostile = list(islice(_hostile_faults(row), FAULTS_PER_LINE))
    yield from hostile
    told = _told_format(row)
    if told and file_format and told != file_format:
        begun = _FORMAT_NAMES[file_format]
        reason = f"this is {_FORMAT_NAMES[told]} in a file that began with {begun}; keep one format a file"
        yield Fault("", "mixed_formats", reason)
        return
    row_format = told or file_format or "chat"
    structural = list(islice(_ROW_CHECKS[row_format](row, ""), FAULTS_PER_LINE))
    yield from structural
    if not structural and not hostile:
        yield from find_faults(msgspec.convert(row, EXAMPLE_TYPES[row_format]))


def _hostile_faults(row: dict[str, Any]) -> Iterator[Fault]:
    """Yield NUL characters, lone surrogates and deep nesting anywhere in ``row``, without recursion."""
    pending: list[tuple[str, Any, int]] = [("", row, 1)]
    while pending:
        path, value, depth = pending.pop()
        if isinstance(value, str):
            yield from _text_faults(value, path)
        elif depth > MAX_DEPTH:
            yield Fault(path[:80], "too_deep", f"the JSON is nested too deeply; the limit is {MAX_DEPTH} levels")
            return
        elif isinstance(value, dict):
            for key in value:
                yield from _text_faults(key, _joined(path, key))
            pending.extend((_joined(path, key), item, depth + 1) for key, item in value.items())
        elif isinstance(value, list):
            pending.extend((f"{path}[{index}]", item, depth + 1) for index, item in enumerate(value))


def _text_faults(text: str, path: str) -> Iterator[Fault]:
    if "\x00" in text:
        yield Fault(path, "nul_character", "the text holds a NUL character (\\u0000); remove it")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        yield Fault(path, "lone_surrogate", "the text holds half of a surrogate pair; write the whole character")


def _typed(expected: str, *types: type) -> _Check:
    def check(value: Any, path: str) -> Iterator[Fault]:
        # bool is an int to Python, not to JSON.
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            yield Fault(path, "wrong_type", f"must be {expected}, not {_json_name(value)}")

    return check


def _one_of(*allowed: str | int) -> _Check:
    names = ", ".join(f"`{name}`" for name in allowed)

    def check(value: Any, path: str) -> Iterator[Fault]:
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value not in allowed:
            code = "unknown_role" if path.endswith("role") else "unknown_value"
            yield Fault(path, code, f"must be one of {names}")

    return check


def _optional(check_present: _Check) -> _Check:
    def check(value: Any, path: str) -> Iterator[Fault]:
        if value is not None:
            yield from check_present(value, path)

    return check


def _list_of(check_item: _Check) -> _Check:
    def check(value: Any, path: str) -> Iterator[Fault]:
        if not isinstance(value, list):
            yield Fault(path, "wrong_type", f"must be an array, not {_json_name(value)}")
            return
        for index, item in enumerate(value):
            yield from check_item(item, f"{path}[{index}]")

    return check


def _object(required: Mapping[str, _Check], optional: Mapping[str, _Check] | None = None) -> _Check:
    known = {**required, **(optional or {})}

    def check(value: Any, path: str) -> Iterator[Fault]:
        if not isinstance(value, dict):
            yield Fault(path, "wrong_type", f"must be an object, not {_json_name(value)}")
            return
        for key in required:
            if key not in value:
                yield Fault(_joined(path, key), "missing_field", f"the required field `{key}` is missing")
        for key, item in value.items():
            if key in known:
                yield from known[key](item, _joined(path, key))
            else:
                yield Fault(_joined(path, key), "unknown_field", _unknown_reason(key, known))

    return check


def _text_or_parts(value: Any, path: str) -> Iterator[Fault]:
    if isinstance(value, list):
        yield from _list_of(_PART)(value, path)
    else:
        yield from _typed("a string or an array of text parts", str)(value, path)


def _unknown_reason(key: str, known: Mapping[str, _Check]) -> str:
    nearest = get_close_matches(key[:40], known, n=1)
    hint = f"did you mean `{nearest[0]}`?" if nearest else f"known here: {', '.join(known)}"
    return f"unknown field `{_shown(key)}`; {hint}"


def _joined(path: str, key: str) -> str:
    return f"{path}.{_shown(key)}" if path else _shown(key)


def _shown(key: str) -> str:
    """Return a key as a path may show it: short, printable ASCII."""
    return ascii(key[:40])[1:-1]


def _json_name(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


_TEXT = _typed("a string", str)
_FLAG = _typed("true or false", bool)
_PART = _object({"type": _one_of("text"), "text": _TEXT})
_FUNCTION = _object({"name": _TEXT, "arguments": _TEXT})
_TOOL_CALL = _object({"id": _TEXT, "function": _FUNCTION}, {"type": _one_of("function")})
_MESSAGE = _object(
    {"role": _one_of(*get_args(Role))},
    {
        "content": _optional(_text_or_parts),
        "name": _optional(_TEXT),
        "tool_calls": _optional(_list_of(_TOOL_CALL)),
        "tool_call_id": _optional(_TEXT),
        "weight": _optional(_one_of(0, 1)),
        "refusal": _optional(_TEXT),
    },
)
_MESSAGES = {"messages": _list_of(_MESSAGE)}
_ROW_CHECKS: Mapping[RowFormat, _Check] = {
    "nlft": _object(
        _MESSAGES,
        {
            **{key: _optional(_TEXT) for key in ("response", "reference", "judgment")},
            "correct": _optional(_FLAG),
            "tools": _optional(_list_of(_typed("an object", dict))),
        },
    ),
    "chat": _object(
        _MESSAGES,
        {"tools": _optional(_list_of(_typed("an object", dict))), "parallel_tool_calls": _optional(_FLAG)},
    ),
    "completion": _object({"prompt": _TEXT, "completion": _TEXT}),
}

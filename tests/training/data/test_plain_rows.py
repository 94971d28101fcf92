"""Plain rows that are proved together: the report is the one that reading line by line gives."""

import importlib.util
import itertools
import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker.training.data.examples import ChatExample, Message, TextPart
from worker.training.data.plain_rows import (
    PlainMessage,
    PlainRow,
    ProvedRows,
    find_plain_row,
    prove_plain_rows,
    row_key,
)
from worker.training.data.reader import ReadLimits, ReadReport, RowReader

SCAN = "worker.training.data._plain_scan"
USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
PLAIN = json.dumps({"messages": [USER, ASSISTANT]}).encode()
ESCAPED = json.dumps({"messages": [USER, {**ASSISTANT, "content": 'a "b" \\frac{1}{2} \\" é\n'}]}).encode()

# Four quotes that are none in the line, and a repeated key that adds four.
BALANCED = (
    b'{"messages":[{"role":"user","role":"user","content":"q"},'
    b'{"role":"assistant","content":"\\u0022\\u0022\\u0022\\u0022"}]}'
)

_ROWS = st.sampled_from(
    [
        BALANCED,
        json.dumps({"messages": [{"role": "system", "content": ""}, USER, ASSISTANT]}).encode(),
        json.dumps({"messages": [USER, ASSISTANT, USER]}).encode(),
        json.dumps({"messages": [{**USER, "content": "\u2028 \\u0022"}, {**ASSISTANT, "content": "\t"}]}).encode(),
        PLAIN,
        PLAIN,
        ESCAPED,
        ESCAPED.replace(b" ", b""),
        json.dumps({"messages": [{**USER, "name": None}, {**ASSISTANT, "weight": 1}]}).encode(),
        json.dumps({"messages": [{**USER, "content": [{"type": "text", "text": "q"}]}, ASSISTANT]}).encode(),
        b'{"messages":[{"role":"user","content":"q"},{"content":"a","role":"assistant"}],"tools":null}',
        b'{"messages":[{"role":"user","role":"user","content":"q"},{"role":"assistant","content":"a"}]}',
        b'{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"messages":[]}',
        b'{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":" "}]}',
        b'{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"\\u0000"}]}',
        b'{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"\\\\u0000"}]}',
        b'{"messages":[{"role":"user","content":"q"}]}',
        b'{"messages":[]}',
        b'{"messages":[{"role":"tool","content":"q","tool_call_id":"1"},{"role":"assistant","content":"a"}]}',
        b'{"messages":[\r',
        PLAIN + PLAIN,
        b'{"prompt":"p","completion":"c"}',
        b"",
        b" ",
        b"\xff",
        b"x" * 400,
    ]
)


MESSAGES = {"messages": [{"role": "system", "content": "s"}, USER, {**ASSISTANT, "content": "answer é\n" * 3}]}
WAYS = (
    json.dumps(MESSAGES, ensure_ascii=False).encode(),
    json.dumps(MESSAGES, ensure_ascii=False, separators=(",", ":")).encode(),
    json.dumps(MESSAGES).encode(),
)


@pytest.fixture(params=["compiled", "decoded"])
def prover(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if name == "decoded":
        monkeypatch.setattr("worker.training.data.plain_rows._plain_scan", None)
    return name


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """Return a plain row with a few bytes replaced, left out or put in."""
    row = bytearray(draw(st.sampled_from([*WAYS, PLAIN, ESCAPED])))
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(row) - 1))
        row[at : at + draw(st.integers(0, 1))] = draw(
            st.sampled_from([b"", b'"', b"\\", b" ", b"\x1f", b"\xe3", b"u", b"}"])
        )
    return bytes(row)


@st.composite
def _plain(draw: st.DrawFn) -> bytes:
    """Return a row whose answer may be white space of any kind and length."""
    text = draw(
        st.text(st.sampled_from([" ", "\t", "\b", "\x7f", "\x85", "\u2003", "\u3000", "あ", '"', "a"]), max_size=20)
    )
    spacing = draw(st.sampled_from([None, (",", ":")]))
    row = {"messages": [USER, {**ASSISTANT, "content": text}]}
    return json.dumps(row, ensure_ascii=draw(st.booleans()), separators=spacing).encode()


def report(chunks: list[bytes], *, by_line: bool) -> ReadReport:
    reader = RowReader(ReadLimits(line_bytes=300))
    for chunk in chunks:
        if by_line:
            reader.feed(chunk)
        else:
            reader.check(chunk)
    reader.finish()
    return reader.report()


def test_the_scan_is_built_where_there_is_a_compiler() -> None:
    assert importlib.util.find_spec(SCAN) is not None or shutil.which("cc") is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(_ROWS | _damaged() | _plain(), max_size=12),
    st.lists(st.integers(0, 900), max_size=6),
    st.sampled_from([b"\n", b"\r\n"]),
)
def test_the_report_is_that_of_reading_line_by_line(
    prover: str, rows: list[bytes], cuts: list[int], newline: bytes
) -> None:
    data = newline.join([PLAIN, *rows])
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[start:end] for start, end in itertools.pairwise(edges)]
    assert report(chunks, by_line=False) == report(chunks, by_line=True)


def prove(lines: bytes) -> ProvedRows:
    return prove_plain_rows(lines, 0, len(lines))


def test_plain_rows_are_proved_together(prover: str) -> None:
    lines = PLAIN + b"\n" + WAYS[0] + b"\n" + PLAIN + b"\n"
    first, second, third = (found := prove(lines)).keys
    assert first == third != second
    assert (found.trained_turns, found.end) == (3, len(lines))


def test_the_decoder_proves_what_the_scan_leaves(prover: str) -> None:
    lines = WAYS[2] + b"\n" + ESCAPED + b"\r\n"
    assert (found := prove(lines)).end == len(lines)
    assert found.trained_turns == 2


def test_the_scan_stops_before_the_first_line_that_is_not_proved() -> None:
    found = prove(PLAIN + b"\n" + PLAIN.replace(b"user", b"users") + b"\n" + PLAIN + b"\n")
    assert (len(found.keys), found.end) == (1, len(PLAIN) + 1)


def test_a_row_has_one_key_however_it_is_written(prover: str) -> None:
    assert len({prove(way + b"\n").keys[0] for way in WAYS}) == 1


_TURNS = st.lists(
    st.builds(PlainMessage, st.sampled_from(["user", "assistant"]), st.sampled_from(["a", "b", "aa", "a" * 8, "é"])),
    min_size=1,
    max_size=3,
).map(tuple)


@given(_TURNS, _TURNS)
def test_keys_are_equal_where_rows_are(one: tuple[PlainMessage, ...], other: tuple[PlainMessage, ...]) -> None:
    assert (row_key(PlainRow(one)) == row_key(PlainRow(other))) == (one == other)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": ""}, USER, ASSISTANT],
        [USER, ASSISTANT, {"role": "user", "content": " "}],
        [ASSISTANT],
    ],
)
def test_only_answers_need_text_and_they_may_stand_anywhere(prover: str, messages: list[dict[str, str]]) -> None:
    found = prove(json.dumps({"messages": messages}).encode() + b"\n")
    assert (len(found.keys), found.trained_turns) == (1, 1)


def test_what_lies_around_the_lines_is_left_alone(prover: str) -> None:
    before, after = b'","role":"user"}]}\n', b'{"messages":[{"role":"us'
    start, end = len(before), len(before + PLAIN) + 1
    found = prove_plain_rows(before + PLAIN + b"\n" + after, start, end)
    assert found == prove(PLAIN + b"\n")._replace(end=end)


@pytest.mark.parametrize(
    "line",
    [
        b'{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"messages":[]}',
        b'{"messages":[{"role":"user","role":"user","content":"q"},{"role":"assistant","content":"a"}]}',
        b'{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"\\u0000"}]}',
        BALANCED,
        b'{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":""}]}',
        b'{"messages":[{"role":"user","content":"q"}]}',
        b'{"messages":[]}',
        b"",
        PLAIN + PLAIN,
        PLAIN.replace(b'"a"', b'"\xed\xa0\x80"'),
    ],
)
def test_one_line_that_is_not_proved_is_left_by_both(prover: str, line: bytes) -> None:
    assert prove(line + b"\n").keys == []


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (4, 3), (0, 99)])
def test_the_scan_refuses_to_look_outside_of_the_chunk(start: int, end: int) -> None:
    module = pytest.importorskip(SCAN)
    with pytest.raises(IndexError):
        module.scan(PLAIN[:50], start, end)


def test_a_row_is_the_same_in_both_forms() -> None:
    plain = find_plain_row(ChatExample([Message("user", "q"), Message("assistant", "a")]))
    assert plain is not None
    assert row_key(plain) == prove(PLAIN + b"\n").keys[0]


@pytest.mark.parametrize(
    "row",
    [
        ChatExample([Message("assistant", "a")], tools=[]),
        ChatExample([Message("assistant", "a")], parallel_tool_calls=False),
        ChatExample([Message("assistant", [TextPart("a")])]),
        ChatExample([Message("assistant", "a", weight=1)]),
        ChatExample([Message("user", "q", name="n")]),
        ChatExample([Message("tool", "q")]),
    ],
)
def test_a_row_that_says_more_has_no_plain_form(row: ChatExample) -> None:
    assert find_plain_row(row) is None

"""Plain rows that are proved together: the report is the one that reading line by line gives."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.training.data.examples import ChatExample, Message, TextPart
from worker.training.data.plain_rows import PlainMessage, PlainRow, find_plain_row, read_plain_rows
from worker.training.data.reader import ReadLimits, ReadReport, RowReader

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


def report(chunks: list[bytes], *, by_line: bool) -> ReadReport:
    reader = RowReader(ReadLimits(line_bytes=300))
    for chunk in chunks:
        if by_line:
            reader.feed(chunk)
        else:
            reader.check(chunk)
    reader.finish()
    return reader.report()


@given(st.lists(_ROWS, max_size=12), st.lists(st.integers(0, 900), max_size=6), st.sampled_from([b"\n", b"\r\n"]))
def test_the_report_is_that_of_reading_line_by_line(rows: list[bytes], cuts: list[int], newline: bytes) -> None:
    data = newline.join([PLAIN, *rows])
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[start:end] for start, end in itertools.pairwise(edges)]
    assert report(chunks, by_line=False) == report(chunks, by_line=True)


def test_plain_rows_are_proved_together() -> None:
    found = read_plain_rows(PLAIN + b"\n" + ESCAPED + b"\r\n")
    assert found is not None
    assert found.rows[0] == PlainRow((PlainMessage("user", "q"), PlainMessage("assistant", "a")))
    assert (len(found.rows), found.trained_turns) == (2, 2)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": ""}, USER, ASSISTANT],
        [USER, ASSISTANT, {"role": "user", "content": " "}],
        [ASSISTANT],
    ],
)
def test_only_answers_need_text_and_they_may_stand_anywhere(messages: list[dict[str, str]]) -> None:
    found = read_plain_rows(json.dumps({"messages": messages}).encode() + b"\n")
    assert found is not None
    assert found.trained_turns == 1


def test_what_lies_around_the_lines_is_left_alone() -> None:
    before, after = b'","role":"user"}]}\n', b'{"messages":[{"role":"us'
    found = read_plain_rows(before + PLAIN + b"\n" + after, len(before), len(before + PLAIN) + 1)
    assert found == read_plain_rows(PLAIN + b"\n")


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
    ],
)
def test_one_line_that_is_not_proved_leaves_the_stretch_unproved(line: bytes) -> None:
    assert read_plain_rows(PLAIN + b"\n" + line + b"\n") is None


def test_a_row_is_the_same_in_both_forms() -> None:
    plain = find_plain_row(ChatExample([Message("user", "q"), Message("assistant", "a")]))
    assert plain is not None
    assert hash(plain) == hash(PlainRow((PlainMessage("user", "q"), PlainMessage("assistant", "a"))))


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

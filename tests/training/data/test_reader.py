import io
import itertools
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.training.data.examples import ChatExample, CompletionExample, NLFTExample
from worker.training.data.reader import ReadLimits, ReadReport, Row, RowReader, read_rows
from worker.training.errors import DatasetError

USER = {"role": "user", "content": "q"}


def lines(*rows: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def feed(chunks: list[bytes], limits: ReadLimits | None = None) -> tuple[list[Row], ReadReport]:
    reader = RowReader(limits)
    rows = [row for chunk in chunks for row in reader.feed(chunk)] + reader.finish()
    return rows, reader.report()


def test_rows_come_typed_with_their_lines() -> None:
    data = lines({"messages": [USER], "response": "a", "judgment": None}, {"messages": [USER], "reference": "r"})
    rows, report = feed([data])
    assert [row.line for row in rows] == [1, 2]
    assert all(isinstance(row.example, NLFTExample) for row in rows)
    assert (report.format, report.rows, report.bytes, report.total_problems) == ("nlft", 2, len(data), 0)


@pytest.mark.parametrize(
    ("row", "row_type"),
    [
        ({"messages": [USER, {"role": "assistant", "content": "a"}]}, ChatExample),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "a"}]}]}, ChatExample),
        ({"messages": [USER, {"role": "assistant", "refusal": "no"}], "parallel_tool_calls": False}, ChatExample),
        ({"prompt": "", "completion": "c"}, CompletionExample),
        ({"messages": [{"role": "user", "content": "role", "name": "content"}], "response": "messages"}, NLFTExample),
        ({"messages": [{"role": "user", "content": "\\u0000 and \\ud800 as text"}], "response": "a"}, NLFTExample),
    ],
)
def test_sound_rows_are_accepted(row: dict[str, Any], row_type: type) -> None:
    rows, report = feed([lines(row)])
    assert report.problems == ()
    assert isinstance(rows[0].example, row_type)


def test_tool_calls_are_accepted() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    turns = [USER, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "1", "content": "2"}]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    rows, report = feed([lines({"messages": turns, "tools": [tool]})])
    assert report.problems == ()
    assert report.counts == {"trained_turns": 1}
    assert len(rows) == 1


def test_what_rows_have_and_lack_is_counted() -> None:
    prompt = {"messages": [USER]}
    _, report = feed(
        [
            lines(
                {**prompt, "response": "a", "reference": "r"},
                {**prompt, "response": "b", "reference": "r", "judgment": "j"},
                {**prompt, "response": "c", "correct": False},
                {**prompt, "reference": "r"},
            )
        ]
    )
    assert report.counts == {
        "right": 1,
        "wrong": 2,
        "without_response": 1,
        "without_reference": 1,
        "without_judgment": 1,
    }


def test_duplicate_rows_are_warned_of_with_both_lines() -> None:
    first, second = {"messages": [USER], "response": "a", "judgment": None}, {"response": "a", "messages": [USER]}
    _, report = feed([lines(first, {**first, "response": "b"}, second)])
    assert report.total_problems == 0
    assert [(warning.line, warning.code) for warning in report.warnings] == [(3, "duplicate_row")]
    assert "line 1" in report.warnings[0].reason


def test_memory_for_duplicates_is_bounded() -> None:
    rows = [{"messages": [USER], "response": str(number % 5)} for number in range(10)]
    _, report = feed([lines(*rows)], ReadLimits(tracked_rows=2))
    assert [warning.line for warning in report.warnings] == [6, 7]


def test_a_long_line_without_an_end_is_not_kept() -> None:
    reader = RowReader(ReadLimits(line_bytes=1000))
    for _ in range(100):
        reader.feed(b"x" * 500)
    reader.finish()
    assert [problem.code for problem in reader.report().problems] == ["line_too_long"]


def test_read_rows_takes_a_file_and_names_it_in_the_error() -> None:
    assert len(read_rows(io.BytesIO(lines({"prompt": "p", "completion": "c"})))) == 1
    with pytest.raises(DatasetError, match="validation_file: line 1: the file holds no rows") as caught:
        read_rows(io.BytesIO(b""), "validation_file")
    assert caught.value.total == 1


def test_a_report_is_json() -> None:
    _, report = feed([b"{}\n"])
    assert json.loads(json.dumps(report.to_json()))["problems"][0]["line"] == 1


def test_reading_loads_neither_torch_nor_numpy() -> None:
    program = "import sys, worker.training.data.reader; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


_PIECES = st.sampled_from(
    [
        b'{"messages":[{"role":"user","content":"q"}],"response":"a"}',
        '{"messages":[{"role":"user","content":"é😀"}],"response":"b"}'.encode(),
        b'{"messages":[{"role":"user","content":"q"}],"response":""}',
        b'{"prompt":"p","completion":"c"}',
        b"\n",
        b"\n\n",
        b"\r\n",
        b"\xff",
        b"x" * 90,
        b" ",
        b"{",
    ]
)


@given(st.lists(_PIECES, max_size=12), st.lists(st.integers(0, 400), max_size=8))
def test_rows_and_report_do_not_depend_on_how_the_bytes_are_cut(pieces: list[bytes], cuts: list[int]) -> None:
    data, limits = b"".join(pieces), ReadLimits(line_bytes=80)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[start:end] for start, end in itertools.pairwise(edges)]
    assert feed(chunks, limits) == feed([data], limits)
    assert feed([bytes([byte]) for byte in data], limits) == feed([data], limits)

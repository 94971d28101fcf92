import json
from collections.abc import Callable, Mapping

import pytest

from worker.training.data.reader import ReadLimits, ReadReport, RowReader

GOOD = b'{"messages":[{"role":"user","content":"q"}],"response":"a","reference":"r"}'
CHAT = b'{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}'
COMPLETION = b'{"prompt":"p","completion":"c"}'


def read(data: bytes, limits: ReadLimits | None = None) -> ReadReport:
    reader = RowReader(limits)
    for _ in reader.rows([data]):
        pass
    return reader.report()


def nlft(**fields: object) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "q"}], "response": "a", **fields}).encode()


def chat(*messages: Mapping[str, object], **fields: object) -> bytes:
    return json.dumps({"messages": list(messages), **fields}).encode()


USER = {"role": "user", "content": "q"}
ASSISTANT = {"role": "assistant", "content": "a"}

HOSTILE = [
    (b"\xff\xfe{", "not_utf8", ""),
    (nlft(response="x").replace(b"x", b"\xe9"), "not_utf8", ""),
    (b"\xef\xbb\xbf" + GOOD, "byte_order_mark", ""),
    (GOOD.replace(b'"a"', b'"a\x00"'), "invalid_json", ""),
    (GOOD.replace(b'"a"', b'"a\\u0000"'), "nul_character", "response"),
    (b'{"messages":', "invalid_json", ""),
    (GOOD + b" trailing", "invalid_json", ""),
    (GOOD.replace(b'"a"', b"NaN"), "not_finite", ""),
    (GOOD.replace(b'"a"', b"-Infinity"), "not_finite", ""),
    (GOOD.replace(b'"a"', b"1" * 5000), "invalid_json", ""),
    (b"[1, 2]", "not_an_object", ""),
    (b'"text"', "not_an_object", ""),
    (GOOD.replace(b'"a"', b'"\\ud800 half"'), "lone_surrogate", "response"),
    (GOOD.replace(b'"a"', b'"\\udc00"'), "lone_surrogate", "response"),
    (GOOD.replace(b'"a"', b'"a","response":"b"'), "duplicate_key", "response"),
    (GOOD.replace(b'"a"', b'"a","respons\\u0065":"b"'), "duplicate_key", "response"),
    (GOOD.replace(b'"role":"user"', b'"role":"user","role":"tool"'), "duplicate_key", "role"),
    (GOOD.replace(b'"content":"q"', b'"content":null,"content":"q"'), "duplicate_key", "content"),
    (GOOD.replace(b'"content":"q"', b'"role":"user"'), "duplicate_key", "role"),
    (GOOD.replace(b'"q"', b'"q \\" ","role":"user"'), "duplicate_key", "role"),
    (GOOD.replace(b'"q"', b'"q \\\\","role":"user"'), "duplicate_key", "role"),
    (GOOD.replace(b'"q"', b'"role","role":"user"'), "duplicate_key", "role"),
    (GOOD.replace(b'"q"', b'"\\\\\\" \\\\","content":"q"'), "duplicate_key", "content"),
    (COMPLETION.replace(b'"c"', b'"c","completion":"\\"c"'), "duplicate_key", "completion"),
    (nlft(judgement="x"), "unknown_field", "judgement"),
    (nlft(messages=[{**USER, "colour": 1}]), "unknown_field", "messages[0].colour"),
    (nlft(messages="q"), "wrong_type", "messages"),
    (nlft(messages=["q"]), "wrong_type", "messages[0]"),
    (nlft(messages=[{"role": "user", "content": 5}]), "wrong_type", "messages[0].content"),
    (nlft(response=["a"]), "wrong_type", "response"),
    (nlft(correct="yes"), "wrong_type", "correct"),
    (nlft(correct=1), "wrong_type", "correct"),
    (nlft(messages=[]), "empty_messages", "messages"),
    (nlft(messages=[{"role": "robot", "content": "q"}]), "unknown_role", "messages[0].role"),
    (nlft(messages=[{"content": "q"}]), "missing_field", "messages[0].role"),
    (nlft(messages=[{"role": "user"}]), "missing_content", "messages[0].content"),
    (nlft(messages=[{"role": "tool", "content": "x"}]), "missing_field", "messages[0].tool_call_id"),
    (nlft(messages=[{**USER, "weight": 1}]), "assistant_only_field", "messages[0]"),
    (nlft(messages=[{**USER, "weight": True}]), "unknown_value", "messages[0].weight"),
    (nlft(messages=[USER, ASSISTANT]), "prompt_ends_with_assistant", "messages[1].role"),
    (
        nlft(response=None, reference="r", messages=[USER, {**ASSISTANT, "weight": 0}]),
        "untrained_response",
        "messages[1].weight",
    ),
    (
        nlft(response=None, reference="r", messages=[USER, {**ASSISTANT, "content": " "}]),
        "empty_response",
        "messages[1].content",
    ),
    (nlft(tools=["x"]), "wrong_type", "tools[0]"),
    (nlft(response=" \n"), "empty_response", "response"),
    (nlft(reference=""), "empty_reference", "reference"),
    (nlft(judgment="  "), "empty_judgment", "judgment"),
    (nlft(response=None), "missing_response", "response"),
    (nlft(response=None, reference="r", judgment="j"), "judgment_without_response", "judgment"),
    (nlft(response=None, reference="r", correct=False), "correct_without_response", "correct"),
    (nlft(correct=True, judgment="bad"), "judgment_on_correct_response", "judgment"),
    (chat(USER), "no_assistant_turn", "messages"),
    (chat(USER, {**ASSISTANT, "weight": 0}), "no_assistant_turn", "messages"),
    (chat(USER, {"role": "assistant", "content": " "}), "empty_response", "messages[1].content"),
    (chat(USER, ASSISTANT, tools=["x"]), "wrong_type", "tools[0]"),
    (b'{"prompt":"p","completion":"\\t"}', "empty_completion", "completion"),
    (b'{"prompt":"p"}', "missing_field", "completion"),
]


@pytest.mark.parametrize(("line", "code", "path"), HOSTILE)
def test_a_bad_line_is_refused_with_its_place_and_reason(line: bytes, code: str, path: str) -> None:
    report = read(line + b"\n")
    assert report.rows == 0
    assert (1, path, code) in [(problem.line, problem.path, problem.code) for problem in report.problems]


@pytest.mark.parametrize(("line", "code", "path"), HOSTILE)
def test_a_report_never_echoes_content(line: bytes, code: str, path: str) -> None:
    secret = line.replace(b'"q"', b'"hush-1234"').replace(b'"a"', b'"hush-1234"')
    assert "hush-1234" not in str(read(secret).to_json())


@pytest.mark.parametrize("depth", [70, 500, 100_000])
def test_deep_nesting_is_refused_not_crashed_on(depth: int) -> None:
    line = CHAT[:-1] + b',"tools":[{"x":' + b"[" * depth + b"]" * depth + b"}]}"
    assert [problem.code for problem in read(line).problems] == ["too_deep"]


def test_a_row_of_another_format_is_refused() -> None:
    report = read(b"\n".join([GOOD, CHAT, COMPLETION, GOOD]))
    assert [(problem.line, problem.code) for problem in report.problems] == [(2, "mixed_formats"), (3, "mixed_formats")]
    assert (report.rows, report.format) == (2, "nlft")


def test_a_bad_first_line_still_tells_the_format() -> None:
    report = read(b"\n".join([nlft(judgement="x"), GOOD]))
    assert (report.format, report.rows, report.total_problems) == ("nlft", 1, 1)


@pytest.mark.parametrize("data", [b"", b"\n", b" \n\r\n"])
def test_an_empty_file_is_refused(data: bytes) -> None:
    assert [problem.code for problem in read(data).problems] == ["empty_file"]


def test_blank_lines_are_refused_inside_and_tolerated_at_the_end() -> None:
    report = read(GOOD + b"\n\n \n" + nlft(response="b") + b"\n\n\n")
    assert [(problem.line, problem.code) for problem in report.problems] == [(2, "blank_line"), (3, "blank_line")]
    assert (report.rows, report.lines) == (2, 6)


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_a_line_longer_than_the_limit_is_refused(ending: bytes) -> None:
    report = read(nlft(response="x" * 200) + b"\n" + GOOD + ending, ReadLimits(line_bytes=len(GOOD) + 1))
    assert [(problem.line, problem.code) for problem in report.problems] == [(1, "line_too_long")]
    assert report.rows == 1


def test_every_fault_of_a_line_is_reported_with_the_nearest_known_name() -> None:
    report = read(nlft(judgement="x", messages=[{"role": "user", "contnt": "q", "weight": 3}]))
    reasons = {problem.path: problem.reason for problem in report.problems}
    assert "did you mean `judgment`" in reasons["judgement"]
    assert "did you mean `content`" in reasons["messages[0].contnt"]
    assert "`0`, `1`" in reasons["messages[0].weight"]


def test_problems_are_listed_up_to_the_cap_and_all_counted() -> None:
    report = read(b"\n".join([b"{}"] * 250))
    assert len(report.problems) == 100
    assert report.total_problems == 250


@pytest.mark.parametrize("build", [lambda keys: nlft(**keys), lambda keys: chat(USER, keys)])
def test_a_row_full_of_unknown_fields_costs_a_bounded_report(build: Callable[[dict[str, object]], bytes]) -> None:
    report = read(build({f"field{number}": 1 for number in range(5000)}))
    assert 1 <= report.total_problems <= 20

import time

import pytest

from worker.training.syntax.patterns import PatternError, check_pattern, last_match


def test_the_last_match_counts_and_its_first_group() -> None:
    assert last_match(r"\d+", "1 22 333") == "333"
    assert last_match(r"x=(\d+),(\d+)", "x=1,2 x=3,4") == "3"
    assert last_match(r"(?i)answer:\s*(.+)", "ANSWER: ümläut\nanswer: 日本") == "日本"
    assert last_match(r"a(b)?", "a") == ""
    assert last_match(r"\d+", "none") is None


@pytest.mark.parametrize(
    "pattern", ["(", "[a", "(?=x)", r"(a)\1", "(?<!x)y", "a{2000}", "((a{100}){100}){100}", "(?P<x"]
)
def test_what_cannot_run_in_linear_time_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError, match="RE2"):
        check_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "piece"),
    [("(a+)+$", "a"), ("(a|a)*b", "a"), ("(.*)*x", "y"), ("x(?:.*y)?", "x"), (r"(\w+\s?)+!", "ab "), ("", "a")],
)
def test_no_pattern_takes_long(pattern: str, piece: str) -> None:
    started = time.monotonic()
    last_match(pattern, (piece * 20_000)[:20_000])
    assert time.monotonic() - started < 5

import time
from fractions import Fraction
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.training.graders import find_number, is_correct
from worker.training.spec import FinalAnswerGrader

GRADER = FinalAnswerGrader()


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        ("#### 1,000", "1000"),
        ("It costs $1,000.50.", "#### 1000.5"),
        ("That makes € 18.", "#### 18"),
        ("10 - 4 = 6, so 6", "#### 6.0"),
        ("#### 3/4", "0.75"),
        ("#### 10/2", "5"),
        ("It is 50%", "#### 50"),
        ("#### 12 apples", "#### 12"),
        ("the result is 5.", "5"),
        ("x = -3", "#### -3"),
        ("-$3", "$-3"),
        ("\u22123", "-3"),
        (".5", "1/2"),
        ("+7", "7"),
        ("7 and then\n#### 8", "8"),
        ("#### 7\nno:\n#### 8", "#### 8"),
        ("range 5-10", "10"),
        ("007", "7"),
        ("No.", "no"),
        ("#### Blue  whale", "so:\n#### blue whale"),
    ],
)
def test_same_value_is_right(response: str, reference: str) -> None:
    assert is_correct(response, reference, GRADER)


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        ("#### 5", "-5"),
        ("8, then #### 7", "8"),
        ("####", "5"),
        ("", "5"),
        ("", ""),
        ("1/0", "0"),
        ("no idea", "7"),
        ("yes", "no"),
        ("#### 1.5", "15"),
        ("9" * 5000, "9"),
        ("1,2,3", "123"),
    ],
)
def test_another_value_is_wrong(response: str, reference: str) -> None:
    assert not is_correct(response, reference, GRADER)


def test_the_marker_is_a_setting() -> None:
    assert find_number("Answer: 4, not 5", "Answer:") == 4
    assert find_number("Answer: 4, not 5", "####") == 5


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        ("#### 1 1/2", "1.5"),
        ("-2 3/4", "-2.75"),
        ("1½ cups", "3/2"),
        ("¾", "0.75"),
        ("it is 0.5", "#### 50%"),
        ("50 %", "1/2"),
        ("50 percent", "50"),
        ("#### 50", "50%"),
        ("1.5e3", "1500"),
        ("₹1,200", "1200"),
        (r"$\frac{3}{4}$", "0.75"),
        (r"so 1\dfrac{1}{2} in all", "3/2"),
        (r"-\frac{1}{2}", "-0.5"),
        (r"\$1{,}000", "1000"),
        ("**Blue**", "blue"),
    ],
)
def test_numbers_are_read_as_people_write_them(response: str, reference: str) -> None:
    assert is_correct(response, reference, GRADER)


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        ("50%", "#### 5000"),
        ("50%", "0.05"),
        ("50%", "5%"),
        ("1 3/2", "2.5"),
        ("in 2024 10/5", "2026"),
    ],
)
def test_values_that_only_look_alike_are_wrong(response: str, reference: str) -> None:
    assert not is_correct(response, reference, GRADER)


@pytest.mark.parametrize(
    ("response", "reference", "is_right"),
    [
        (r"Thus \boxed{18}.", "#### 18", True),
        (r"\boxed{\frac{1}{2}}", r"\boxed{0.5}", True),
        (r"\boxed{17}, no: \boxed{18}", "18", True),
        (r"\boxed{18} or \boxed{17", "18", True),
        (r"\boxed{\{1, 2\}}", r"\boxed{\{1, 2\}}", True),
        (r"\boxed{18 \text{ apples}}", "18", True),
        (r"\boxed{x+1}", r"\boxed{x+1}", True),
        (r"\boxed{x+1}", "1", False),
        (r"\boxed{2x}", "2", False),
        (r"\boxed{\boxed{5}}", "5", False),
        ("18", "18", False),
        (r"\boxed{}", "18", False),
    ],
)
def test_boxed(response: str, reference: str, is_right: bool) -> None:
    assert is_correct(response, reference, FinalAnswerGrader(extract="boxed")) == is_right


def test_the_last_number_ignores_markers() -> None:
    grader = FinalAnswerGrader(extract="last_number")
    assert is_correct("#### 7, I mean 8", "so 8", grader)
    assert not is_correct("#### 8, not 7", "8", grader)
    assert not is_correct("no", "no", grader)


@pytest.mark.parametrize(
    ("pattern", "response", "reference", "is_right"),
    [
        (r"Answer: (.*)", "Answer: 3\nAnswer: $4.00", "#### 4", True),
        (r"Answer: (.*)", "4", "#### 4", False),
        (r"Answer: (.*)", "Answer: (b)", "Answer: B", True),
        (r"\d+ (?:apples|pears)", "3 apples, then 4 pears", "4", True),
        (r"(\d+)|(x)", "5 x", "5", False),
    ],
)
def test_pattern(pattern: str, response: str, reference: str, is_right: bool) -> None:
    grader = FinalAnswerGrader(extract="pattern", pattern=pattern)
    assert is_correct(response, reference, grader) == is_right


@pytest.mark.parametrize("extract", ["marker", "last_number", "boxed"])
@pytest.mark.parametrize(
    "piece", ["9", " ", "1,111", "1 1/", "\\boxed{", "{", "}", "\\frac{1}{", "-", "####", "a", "½"]
)
def test_hostile_text_takes_no_longer_than_its_length(extract: Literal["marker", "boxed"], piece: str) -> None:
    started = time.monotonic()
    is_correct(piece * (50_000 // len(piece)), piece * 5000 + "7", FinalAnswerGrader(extract=extract))
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("extract", ["marker", "last_number", "boxed", "pattern"])
def test_only_the_end_of_a_long_response_is_read(extract: Literal["marker", "boxed", "pattern"]) -> None:
    grader = FinalAnswerGrader(extract=extract, pattern=r"\d+" if extract == "pattern" else None)
    answer = r"#### \boxed{7}"
    assert is_correct("." * 100_000 + answer, "7", grader)
    assert not is_correct(answer + "." * 100_000, "7", grader)


@given(st.fractions(-(10**9), 10**9, max_denominator=1000))
def test_a_value_survives_every_way_of_writing_it(value: Fraction) -> None:
    sign, whole, rest = "-" if value < 0 else "", int(abs(value)), abs(value) - int(abs(value))
    spellings = [
        f"{value.numerator}/{value.denominator}",
        f"{sign}\\frac{{{abs(value).numerator}}}{{{value.denominator}}}",
    ]
    if rest and whole:
        spellings += [f"{sign}{whole:,} {rest}", f"{sign}${whole} {rest}"]
    if rest == 0:
        spellings += [f"{sign}${whole:,}.00", f"{sign}{whole}%", f"The answer is {sign}{whole}."]
    for spelling in spellings:
        assert find_number(f"12 things\n#### {spelling}", "####") == value, spelling

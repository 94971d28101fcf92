import pytest

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

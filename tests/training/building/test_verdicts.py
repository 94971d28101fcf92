import pytest

from worker.training.building.verdicts import find_fault

TEXTS = {"question": "How many apples are 3 + 4?", "response": "3 + 4 = 8 apples", "reference": "3 + 4 = 7"}


@pytest.mark.parametrize(
    ("judgment", "fault"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("The answer is correct.", "says_correct"),
        ("Correct! 3 + 4 makes 8 apples.", "says_correct"),
        ("Yes, the student adds 3 and 4 well.", "says_correct"),
        ("The student's solution is completely right: 3 + 4 = 8.", "says_correct"),
        ("There are no mistakes in 3 + 4 = 8.", "says_correct"),
        ("I cannot help with that request.", "nothing_usable"),
        ("The answer is wrong.", "nothing_usable"),
        ("wrong 8", "nothing_usable"),
        ("3 + 4 = 8 apples", "nothing_usable"),
        ("The sum 3 + 4 is 7, not 8.", None),
        ("The approach is right, but 3 + 4 is 7.", None),
        ("The answer is not correct: apples were counted twice.", None),
        ("The answer concludes 8, but the right result is 7. The step 3 + 4 = 7 is missing.", None),
        ("The steps are right, but the conclusion 8 does not follow from them.", None),
        ("There is an error in 3 + 4.", None),
    ],
)
def test_judgments_of_no_use_are_told_by_their_fault(judgment: str, fault: str | None) -> None:
    assert find_fault(judgment, **TEXTS) == fault

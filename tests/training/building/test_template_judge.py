import pytest

from worker.training.building.template_judge import judge_by_template
from worker.training.spec import FinalAnswerGrader

GRADER = FinalAnswerGrader()
REFERENCE = "The packs hold 2 * 5 = 10 nuts. In all that is 3 + 10 = 13 nuts.\n#### 13"


@pytest.mark.parametrize(
    ("response", "named"),
    [
        ("2 * 5 = 10. 3 + 10 = 14\n#### 14", "wrong step is 3 + 10 = 14; the left side comes to 13."),
        ("5 * 2 = 10. 10 - 3 = 7\n#### 7", "wrong step is 10 - 3 = 7; it should be 3 + 10 = 13."),
        ("5 * 2 = 10\n#### 10", "The step 3 + 10 = 13 is missing."),
        ("5 * 2 = 10. 10 + 3 = 13\n#### 31", "the conclusion does not follow"),
        ("6 / 0 = 6\n#### 6", "wrong step is 6 / 0 = 6; the left side has no value."),
        ("3 + 10 = 13, as 2 x 5 = 10. So 13 + 10 = 23\n#### 23", "The first wrong step is 13 + 10 = 23."),
    ],
)
def test_a_judgment_names_the_first_wrong_step_by_value(response: str, named: str) -> None:
    judgment = judge_by_template(response, REFERENCE, GRADER)
    assert "but the right result is 13." in judgment
    assert named in judgment


def test_marks_of_gsm8k_and_decimals_are_read() -> None:
    reference = "He earns 12/60 = $<<12/60=0.2>>0.2 a minute, so 0.2 x 50 = $<<0.2*50=10>>10.\n#### 10"
    judgment = judge_by_template("12/60 = $0.20 per minute. 0.2 * 50 = $12.\nThe answer is $12.", reference, GRADER)
    assert judgment == (
        "The answer concludes 12, but the right result is 10. "
        "The first wrong step is 0.2 * 50 = $12; the left side comes to 10."
    )


@pytest.mark.parametrize(
    ("response", "reference", "judgment"),
    [
        ("I do not know", "#### 0.5", "The answer reaches no result, but the right result is 0.5."),
        ("It is #### Rome", "#### Paris", "The answer concludes Rome, but the right result is Paris."),
        ("No idea", "Paris", "The answer reaches no result, but the right result is Paris."),
        ("#### 7", "#### 20%", "The answer concludes 7, but the right result is 20%."),
        ("#### 13", "#### 13", ""),
        ("no", "a long explanation without any result " * 20, ""),
    ],
)
def test_results_alone_are_told_where_there_are_no_steps(response: str, reference: str, judgment: str) -> None:
    assert judge_by_template(response, reference, GRADER) == judgment


def test_the_answer_is_read_as_the_grader_reads_it() -> None:
    boxed = FinalAnswerGrader(extract="boxed")
    assert judge_by_template("\\boxed{3} of 9", "\\boxed{4}", boxed).startswith("The answer concludes 3, but")

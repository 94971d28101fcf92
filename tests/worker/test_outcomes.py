import signal
from dataclasses import replace

import pytest

from app.jobs.attempts import JobError
from worker.outcomes import UNEXPECTED, ChildEnd, StopReason, Verdict, classify
from worker.training.events import ErrorEvent, ResultEvent

RESULT = ResultEvent(trained_tokens=1, steps=1, metrics={})
ERROR = ErrorEvent(code="invalid_training_file", message="line 3 is bad\x00", param="training_file", data={"line": 3})


@pytest.mark.parametrize(
    ("end", "verdict"),
    [
        (ChildEnd(0, result=RESULT), Verdict.PUBLISH),
        (ChildEnd(0), Verdict.FAILED),
        (ChildEnd(1), Verdict.FAILED),
        (ChildEnd(77), Verdict.FAILED),
        (ChildEnd(10), Verdict.FAIL),
        (ChildEnd(11), Verdict.FAIL),
        (ChildEnd(12), Verdict.FAIL),
        (ChildEnd(13), Verdict.LOST),
        (ChildEnd(14), Verdict.LOST),
        (ChildEnd(-signal.SIGKILL), Verdict.LOST),
        (ChildEnd(-signal.SIGSEGV), Verdict.LOST),
        (ChildEnd(13, StopReason.DRAIN), Verdict.REQUEUE),
        (ChildEnd(-signal.SIGKILL, StopReason.DRAIN), Verdict.REQUEUE),
        (ChildEnd(1, StopReason.DISCONNECTED), Verdict.REQUEUE),
        (ChildEnd(10, StopReason.DRAIN), Verdict.FAIL),
        (ChildEnd(0, StopReason.DRAIN, RESULT), Verdict.PUBLISH),
        (ChildEnd(0, StopReason.CANCEL, RESULT), Verdict.CANCEL),
        (ChildEnd(14, StopReason.CANCEL), Verdict.CANCEL),
        (ChildEnd(-signal.SIGKILL, StopReason.STALLED), Verdict.STALLED),
        (ChildEnd(0, StopReason.LOST, RESULT), Verdict.ABANDON),
    ],
)
def test_every_end_has_its_verdict(end: ChildEnd, verdict: Verdict) -> None:
    outcome = classify(end)
    assert (outcome.verdict, outcome.record.outcome, outcome.record.exit_code) == (verdict, verdict, end.exit_code)


@pytest.mark.parametrize(
    ("end", "verdict"),
    [
        (ChildEnd(0, result=RESULT), Verdict.PUBLISH),
        (ChildEnd(0), Verdict.LOST),
        (ChildEnd(1), Verdict.LOST),
        (ChildEnd(10), Verdict.FAIL),
        (ChildEnd(11), Verdict.FAIL),
        (ChildEnd(12), Verdict.LOST),
        (ChildEnd(12, StopReason.CANCEL), Verdict.CANCEL),
        (ChildEnd(12, StopReason.LOST), Verdict.ABANDON),
        (ChildEnd(1, StopReason.DRAIN), Verdict.REQUEUE),
        (ChildEnd(-signal.SIGKILL), Verdict.LOST),
        (ChildEnd(-signal.SIGKILL, StopReason.STALLED), Verdict.LOST),
    ],
)
def test_what_neighbours_may_have_caused_is_a_loss(end: ChildEnd, verdict: Verdict) -> None:
    outcome = classify(replace(end, neighbours=2))
    assert (outcome.verdict, outcome.record.outcome, outcome.record.exit_code) == (verdict, verdict, end.exit_code)


def test_a_death_in_company_is_not_put_down_to_memory() -> None:
    assert classify(ChildEnd(-signal.SIGKILL, neighbours=1)).error.code == "trainer_lost"
    assert classify(ChildEnd(12, error=ERROR, neighbours=1)).error.code == ERROR.code


def test_the_childs_own_words_reach_the_owner() -> None:
    error = classify(ChildEnd(10, error=ERROR)).error
    assert error == JobError("invalid_training_file", "line 3 is bad", "training_file", {"line": 3})


def test_unknown_ends_say_nothing_of_the_log() -> None:
    outcome = classify(ChildEnd(1, log_tail="Traceback: secret path /root"))
    assert outcome.error == UNEXPECTED
    assert outcome.record.log_tail == "Traceback: secret path /root"


@pytest.mark.parametrize(("code", "expected"), [(12, "out_of_memory"), (-9, "trainer_killed")])
def test_memory_trouble_comes_with_a_hint(code: int, expected: str) -> None:
    error = classify(ChildEnd(code)).error
    assert error.code == expected
    assert "smaller" in error.message

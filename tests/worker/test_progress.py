import pytest

from worker.narration import describe
from worker.progress import ProgressBoard
from worker.training.events import (
    CheckpointEvent,
    EvaluationEvent,
    MessageEvent,
    MetricsEvent,
    PhaseEvent,
    ProgressEvent,
)


def metrics(step: int, valid_loss: float | None = None) -> MetricsEvent:
    return MetricsEvent(
        step=step,
        total_steps=10,
        epoch=0.5,
        train_loss=1.234,
        train_mean_token_accuracy=0.5,
        learning_rate=1e-4,
        grad_norm=1.0,
        tokens=10,
        seconds=0.1,
        valid_loss=valid_loss,
        extra={"salient_share": 0.25},
    )


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_board_estimates_the_rest_from_the_pace(clock: Clock) -> None:
    board = ProgressBoard(clock)
    assert board.heartbeat().remaining_seconds is None
    assert not board.has_stepped()
    for step in (1, 2, 3):
        clock.now += 2
        board.note(metrics(step))
    assert board.heartbeat().remaining_seconds == 14
    assert board.heartbeat().progress == {"step": 3, "total_steps": 10}


def test_board_forgets_phase_progress_with_the_phase(clock: Clock) -> None:
    board = ProgressBoard(clock)
    board.note(PhaseEvent("scoring"))
    board.note(ProgressEvent(3, 9))
    assert (board.heartbeat().phase, board.heartbeat().progress) == ("scoring", {"done": 3, "total": 9})
    board.enter("publishing")
    assert (board.heartbeat().phase, board.heartbeat().progress) == ("publishing", {})


def test_every_event_is_a_sign_of_life(clock: Clock) -> None:
    board = ProgressBoard(clock)
    clock.now += 50
    assert board.silence_seconds() == 50
    board.note(MessageEvent("info", "still here"))
    assert board.silence_seconds() == 0


def test_steps_become_metrics_rows() -> None:
    row = describe(metrics(5, valid_loss=2.0))
    assert row is not None
    assert (row.type, row.message) == ("metrics", "Step 5/10: training loss=1.23, validation loss=2.00")
    assert row.data is not None
    assert (row.data["step"], row.data["salient_share"]) == (5, 0.25)
    assert not {"type", "extra"} & set(row.data)


def test_evaluations_and_messages_become_sentences() -> None:
    evaluation = describe(EvaluationEvent("before", 0.125, 1, 8, 2.0))
    assert evaluation is not None
    assert evaluation.message == "Accuracy before training: 12.5% (1 of 8 answers correct)."
    message = describe(MessageEvent("warn", "odd\x00 rows", {"rows": [1]}))
    assert message is not None
    assert (message.level, message.message, message.data) == ("warn", "odd rows", {"rows": [1]})


def test_progress_and_checkpoints_are_told_elsewhere() -> None:
    assert describe(ProgressEvent(1, 2)) is None
    assert describe(CheckpointEvent(1, "checkpoints/step-000001", {})) is None

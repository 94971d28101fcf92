import pytest

from tests.training.builders import RecordingObserver
from worker.training.engine.pulse import Pulse
from worker.training.errors import ExitCode, TrainingCancelled, TrainingStopped
from worker.training.events import ProgressEvent


def test_progress_is_told_at_the_end_and_not_at_every_beat() -> None:
    observer = RecordingObserver()
    pulse = Pulse(observer)
    for done in range(1, 101):
        pulse.beat(done, 100)
    assert observer.of(ProgressEvent) == [ProgressEvent(100, 100)]


def test_cancel_ends_any_work() -> None:
    pulse = Pulse(RecordingObserver(end="cancel", after_step=0))
    for speak in (pulse.beat, pulse.report):
        with pytest.raises(TrainingCancelled) as caught:
            speak(1, 2)
        assert caught.value.exit_code == ExitCode.CANCELLED


def test_stop_lets_work_finish_that_cannot_be_resumed() -> None:
    pulse = Pulse(RecordingObserver(end="stop", after_step=0))
    pulse.report(1, 2)
    with pytest.raises(TrainingStopped) as caught:
        pulse.beat(1, 2)
    assert caught.value.exit_code == ExitCode.STOPPED

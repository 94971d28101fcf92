"""The trainer command on a folder for several runs, as its parent sees it."""

import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from tests.fixtures.tiny_models import TinyModel
from tests.training.builders import RecordingObserver
from tests.training.multi_lora.runs import RUNS, adapter, begin, distance
from worker.training.command import run
from worker.training.errors import ExitCode
from worker.training.events import (
    CANCEL,
    CONTROL_FD,
    EVENTS_FD,
    STOP,
    CheckpointEvent,
    ErrorEvent,
    Event,
    MessageEvent,
    MetricsEvent,
    ProgressEvent,
    ResultEvent,
    decode,
)
from worker.training.group_protocol import number_line, read_end, split_line, write_group

# Sums over other rows may end in other last bits of float32; what AdamW makes of them stays below this.
TOLERANCE = 1e-5


class Group:
    """A trainer process for several runs: what it says of each, and the end of each."""

    def __init__(self, process: subprocess.Popen[bytes], events: BinaryIO, control: BinaryIO) -> None:
        self.process = process
        self.events: defaultdict[int, list[Event]] = defaultdict(list)
        self.ends: dict[int, int] = {}
        self._lines = events
        self._control = control

    def say(self, number: int, line: bytes) -> None:
        self._control.write(number_line(number, line))

    def follow(self, until: Callable[["Group"], bool] = lambda _: False) -> None:
        """Read until the condition holds, at most to the end."""
        while not until(self) and (line := self._lines.readline()):
            number, rest = split_line(line)
            status = read_end(rest)
            if status is None:
                self.events[number].append(decode(rest))
            else:
                self.ends[number] = status

    def leave(self) -> None:
        """Close the control pipe, as a parent that dies does."""
        self._control.close()

    def of(self, number: int, kind: type[Any]) -> list[Any]:
        return [event for event in self.events[number] if isinstance(event, kind)]


@contextmanager
def started(folder: Path, workspaces: Sequence[Path]) -> Iterator[Group]:
    folder.mkdir()
    write_group(folder, workspaces)
    events_read, events_write = os.pipe()
    control_read, control_write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.training", "run", str(folder)],
        pass_fds=(events_write, control_read),
        env={**os.environ, EVENTS_FD: str(events_write), CONTROL_FD: str(control_read), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    os.close(events_write)
    os.close(control_read)
    with os.fdopen(events_read, "rb") as events, os.fdopen(control_write, "wb", buffering=0) as control:
        try:
            yield Group(process, events, control)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def prepare(root: Path, model: Path, names: Sequence[str], **chosen: Any) -> list[Path]:
    """Write the workspaces of runs; ``chosen`` goes into the hyperparameters of the last."""
    folders = []
    for name in names:
        folder = root / name
        spec = begin(folder, model, RUNS[name], **(chosen if name == names[-1] else {}))
        (folder / "spec.json").write_text(spec.model_dump_json())
        folders.append(folder)
    return folders


def check_as_alone(tmp_path: Path, model: Path, name: str) -> RecordingObserver:
    """Check the adapter of a run against that of the same run alone; return what the latter said."""
    (folder,), observer = prepare(tmp_path / "alone", model, [name]), RecordingObserver()
    assert run(folder, observer) == ExitCode.DONE
    assert distance(adapter(tmp_path / "together" / name), adapter(folder)) <= TOLERANCE
    return observer


def kinds(events: Sequence[Event]) -> list[type[Event]]:
    """Return the kinds of events, but for signs of life, which come by the clock, and why passes are not shared."""
    return [type(event) for event in events if not isinstance(event, ProgressEvent) and not is_about_sharing(event)]


def is_about_sharing(event: Event) -> bool:
    return isinstance(event, MessageEvent) and "no passes" in event.message


def test_every_run_ends_with_the_adapter_and_the_words_of_a_run_alone(tmp_path: Path, tiny_model: TinyModel) -> None:
    model, names = tiny_model(), ["nlft", "plain", "dropout", "few targets"]
    with started(tmp_path / "group", prepare(tmp_path / "together", model, names)) as group:
        group.follow()
        assert group.process.wait(30) == 0
    assert group.ends == dict.fromkeys(range(4), 0)
    assert [any(map(is_about_sharing, group.events[number])) for number in range(4)] == [False, False, True, False]
    for number, name in enumerate(names):
        assert isinstance(group.events[number][-1], ResultEvent)
        own = check_as_alone(tmp_path, model, name)
        assert kinds(group.events[number]) == kinds(own.events)
        steps = zip(group.of(number, MetricsEvent), own.of(MetricsEvent), strict=True)
        assert all(one.train_loss == pytest.approx(other.train_loss, abs=1e-4) for one, other in steps)


def test_one_run_goes_mad_and_the_others_do_not_notice(tmp_path: Path, tiny_model: TinyModel) -> None:
    model, names = tiny_model(), ["plain", "dropout", "few targets"]
    folders = prepare(tmp_path / "together", model, names, learning_rate_multiplier=1e38)
    with started(tmp_path / "group", folders) as group:
        group.follow()
    assert group.ends == {0: ExitCode.DONE, 1: ExitCode.DONE, 2: ExitCode.DATA}
    (error,) = group.of(2, ErrorEvent)
    assert error.code == "non_finite_loss"
    for name in names[:2]:
        check_as_alone(tmp_path, model, name)


def test_a_cancel_and_a_stop_reach_the_run_that_they_are_for(tmp_path: Path, tiny_model: TinyModel) -> None:
    model, names = tiny_model(), ["plain", "nlft", "few targets"]
    with started(tmp_path / "group", prepare(tmp_path / "together", model, names)) as group:
        group.follow(lambda it: all(it.of(number, MetricsEvent) for number in (1, 2)))
        group.say(1, CANCEL)
        group.say(2, STOP)
        group.follow()
    assert group.ends == {0: ExitCode.DONE, 1: ExitCode.CANCELLED, 2: ExitCode.STOPPED}
    assert not group.of(1, ResultEvent)
    assert len(group.of(2, CheckpointEvent)) == 1
    check_as_alone(tmp_path, model, "plain")


def test_bad_data_and_an_unreadable_spec_are_the_runs_own(tmp_path: Path, tiny_model: TinyModel) -> None:
    model = tiny_model()
    folders = prepare(tmp_path / "together", model, ["plain", "dropout", "few targets"])
    (folders[1] / "inputs/training.jsonl").write_text("{}\n")
    (folders[2] / "spec.json").write_text("{}")
    with started(tmp_path / "group", folders) as group:
        group.follow()
    assert group.ends == {0: ExitCode.DONE, 1: ExitCode.DATA, 2: ExitCode.CONFIGURATION}


def test_the_process_dies_with_its_parent(tmp_path: Path, tiny_model: TinyModel) -> None:
    folders = prepare(tmp_path / "together", tiny_model(), ["plain", "dropout"])
    with started(tmp_path / "group", folders) as group:
        group.follow(lambda it: bool(it.of(0, MetricsEvent)))
        group.leave()
        assert group.process.wait(10) == -signal.SIGKILL

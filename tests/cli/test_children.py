import pytest

from app.cli.children import Watch
from app.cli.output import CommandError
from app.embedded.errors import StartError


class FlakyPart:
    """A part that the test ends, and that may refuse to start."""

    def __init__(self) -> None:
        self.runs = True
        self.starts = 0
        self.refuses = False

    def is_running(self) -> bool:
        return self.runs

    def start(self) -> None:
        self.starts += 1
        if self.refuses:
            raise StartError("not today")
        self.runs = True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def part() -> FlakyPart:
    return FlakyPart()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_running_parts_are_left_alone(part: FlakyPart, clock: Clock) -> None:
    said: list[str] = []
    Watch({"API": part}, said.append, clock).check()
    assert (part.starts, said) == (0, [])


def ignore(_line: str) -> None:
    return


def test_each_restart_waits_longer(part: FlakyPart, clock: Clock) -> None:
    watch = Watch({"API": part}, ignore, clock)
    waits = []
    for _ in range(4):
        part.runs, ended, starts = False, clock.now, part.starts
        while part.starts == starts:
            watch.check()
            clock.now += 0.25
        waits.append(clock.now - ended - 0.25)
    assert waits == [0.5, 1.0, 2.0, 4.0]


def test_gives_up_after_five_restarts_in_two_minutes(part: FlakyPart, clock: Clock) -> None:
    watch = Watch({"API": part}, ignore, clock)
    part.refuses = True
    part.runs = False
    with pytest.raises(CommandError, match="API ended 6 times within 120 s"):
        check_for(watch, clock, seconds=250)
    assert part.starts == 5


def check_for(watch: Watch, clock: Clock, *, seconds: float) -> None:
    end = clock.now + seconds
    while clock.now < end:
        watch.check()
        clock.now += 0.25


def test_old_failures_are_forgiven(part: FlakyPart, clock: Clock) -> None:
    watch = Watch({"API": part}, ignore, clock)
    for _ in range(20):
        part.runs = False
        watch.check()
        clock.now += 0.5
        watch.check()
        assert part.runs
        clock.now += 200
    assert part.starts == 20

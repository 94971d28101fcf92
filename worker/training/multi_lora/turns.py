"""Lets one of several threads compute at a time, each with random generators of its own, and a conductor between them.

Runs take turns only where they wait for something or say that they can. While no run can go on by itself, the conductor
has the turn and does what they wait for. All seeds and settings of a process are global, so this is what lets code that
was written for a process of its own share one.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from worker.training.engine.runtime import RandomState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator


@dataclass(eq=False, slots=True)
class Seat:
    """One thread's place; ``random_state`` is that of its generators while another has the turn."""

    random_state: RandomState | None = None
    called: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def randomly(self) -> Iterator[None]:
        """Lend the generators of this seat, which waits, to the thread that has the turn."""
        if self.random_state is not None:
            self.random_state.restore()
        try:
            yield
        finally:
            self.random_state = RandomState.capture()


class Turns:
    """Who computes. Methods that take a seat are called by its thread, all but ``enter`` while it has the turn."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._seats: set[Seat] = set()
        self._ready: deque[Seat] = deque()
        self._resting: list[Seat] = []
        self._conductor = Seat()
        self._holder: Seat | None = self._conductor
        self._is_news = False

    def add(self) -> Seat:
        """Return a new seat; its thread calls ``enter`` before anything else and ``leave`` at its end."""
        seat = Seat()
        with self._changed:
            self._seats.add(seat)
        return seat

    def enter(self, seat: Seat) -> None:
        """Wait for the first turn, or for one after ``go_out``."""
        with self._changed:
            self._ready.append(seat)
            if self._holder is None:
                self._call_next()
        self._take_up(seat)

    def leave(self, seat: Seat) -> None:
        """Give the turn away for good."""
        with self._changed:
            self._seats.discard(seat)
            self._hand_on()

    def wait(self, seat: Seat) -> None:
        """Give the turn away until the conductor has served this seat."""
        self._lay_down(seat)
        with self._changed:
            self._hand_on()
        self._take_up(seat)

    def rest(self, seat: Seat) -> None:
        """Let every other seat go as far as it can, then go on."""
        with self._changed:
            if len(self._seats) == 1:
                return
        self._lay_down(seat)
        with self._changed:
            self._resting.append(seat)
            self._hand_on()
        self._take_up(seat)

    def go_out(self, seat: Seat) -> None:
        """Give the turn away until ``enter``: the thread waits for something outside and computes nothing."""
        self._lay_down(seat)
        with self._changed:
            self._hand_on()

    def conduct(self, serve: Callable[[], Collection[Seat]]) -> None:
        """Call ``serve``, which returns the seats that can go on, whenever none can by itself; end with the seats."""
        with self._changed:
            self._call_next()
            while self._seats:
                self._changed.wait_for(lambda: self._holder is None and (self._is_news or not self._seats))
                self._holder, self._is_news = self._conductor, False
                self._changed.release()
                try:
                    served = serve()
                finally:
                    self._changed.acquire()
                # Those that rest go on even where others are served for ever.
                self._ready.extend([*served, *self._resting])
                self._resting.clear()
                self._call_next()
            self._holder = self._conductor

    def _hand_on(self) -> None:
        self._is_news = True
        self._call_next()

    def _call_next(self) -> None:
        """Call the next ready seat, or the conductor."""
        if self._ready:
            self._holder = self._ready.popleft()
            self._holder.called.set()
        else:
            self._holder = None
            self._changed.notify_all()

    def _lay_down(self, seat: Seat) -> None:
        seat.random_state = RandomState.capture()

    def _take_up(self, seat: Seat) -> None:
        seat.called.wait()
        seat.called.clear()
        if seat.random_state is not None:
            seat.random_state.restore()
            seat.random_state = None

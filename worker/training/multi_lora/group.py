"""Several runs in one process on one resident base, each on its own thread; any may end, fail or join at any time."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from worker.training.multi_lora.exchange import Exchange
from worker.training.multi_lora.member import Member
from worker.training.multi_lora.resident import ResidentBase
from worker.training.multi_lora.turns import Seat, Turns

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class JobGroup:
    """Runs that share a base model: ``add`` them, then ``run``.

    More may be added while ``run`` lasts, from other threads or by the runs themselves.

    Args:
        pack_tokens: Most tokens of a pack that several runs share; None: what the first run's settings allow.
        base: The base model; None: the one that the first run asks for.
    """

    def __init__(self, *, pack_tokens: int | None = None, base: ResidentBase | None = None) -> None:
        self._turns = Turns()
        self._base = base or ResidentBase()
        self._threads: list[threading.Thread] = []
        self._exchange = Exchange(self._base.share, lambda: pack_tokens or self._base.pack_tokens)

    def add(self, work: Callable[[Member], T]) -> Future[T]:
        """Start ``work`` on a thread of its own and return what it will return; it computes only while ``run`` lasts.

        ``work`` hands its membership to ``trainer.train`` as ``models``, its observer through ``Member.watch`` and its
        completions through ``Member.ask``.
        """
        future: Future[T] = Future()
        seat = self._turns.add()
        # A daemon, since a process that must end cannot wait for the ends of its jobs.
        thread = threading.Thread(target=self._work, args=(seat, work, future), name="job", daemon=True)
        thread.start()
        self._threads.append(thread)
        return future

    def run(self) -> None:
        """Serve the runs until all have ended. What they raise is in their futures."""
        self._turns.conduct(self._exchange.serve)
        # One that still lets go of its tensors while the interpreter shuts down would abort the process.
        for thread in self._threads:
            thread.join()

    def _work(self, seat: Seat, work: Callable[[Member], T], future: Future[T]) -> None:
        member = Member(seat, self._turns, self._base, self._exchange)
        self._turns.enter(seat)
        try:
            future.set_result(work(member))
        except BaseException as error:  # noqa: BLE001 - whoever holds the future hears of it
            future.set_exception(error)
        finally:
            member.end()
            self._turns.leave(seat)

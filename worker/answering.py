"""Asks endpoints on behalf of one child, which has neither keys nor a network. For the thread that owns the child."""

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from app.completions.client import EndpointClient
from app.completions.configuration import Endpoints
from app.completions.ledger import Ledger
from worker.training.events import CompletionAnswer, CompletionRequest, MessageEvent

if TYPE_CHECKING:
    from concurrent.futures import Future

_encode = msgspec.json.Encoder().encode


class AnswerDesk:
    """The open questions of a child.

    Args:
        endpoints: The operator's.
        ledger: Of the child's job.
    """

    def __init__(self, endpoints: Endpoints, ledger: Ledger) -> None:
        self._client = EndpointClient(endpoints, ledger)
        self._is_closed = False
        self._open: dict[int, Future[CompletionAnswer]] = {}
        self._outcomes: Counter[str] = Counter()

    @property
    def is_waiting(self) -> bool:
        """Whether the child is owed an answer."""
        return bool(self._open)

    def ask(self, request: CompletionRequest) -> None:
        """Start to ask; the answer appears in ``take_answers``. What a child has said last is not asked any more."""
        if not self._is_closed:
            self._open[request.id] = self._client.submit(request)

    def take_answers(self) -> list[bytes]:
        """Return the answers that have arrived since the last call, each as a line of the control protocol."""
        done = [number for number, future in self._open.items() if future.done()]
        answers = [self._open.pop(number).result() for number in done]
        self._outcomes.update(answer.code or "answered" for answer in answers)
        return [_encode(answer) + b"\n" for answer in answers]

    def close(self) -> None:
        """Break off what is still open."""
        self._is_closed = True
        self._client.close()
        self._open.clear()

    def summary(self) -> MessageEvent | None:
        """Return what the job's owner should know about the questions of this child, if it had any."""
        total = self._outcomes.total()
        if not total:
            return None
        answered = self._outcomes["answered"]
        failed = {code: count for code, count in self._outcomes.most_common() if code != "answered"}
        message = f"Asked endpoints {total} question(s): {answered} answered"
        if failed:
            message += ", " + ", ".join(f"{count} {code}" for code, count in failed.items())
        return MessageEvent("warn" if failed else "info", f"{message}.", {"answered": answered, "failed": failed})

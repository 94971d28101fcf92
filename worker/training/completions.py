"""The port through which graders and judges ask models that live elsewhere. The library itself opens no connection."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from worker.training.events import CompletionAnswer, CompletionRequest

_ids = itertools.count(1)


class Completions(Protocol):
    """Answers questions to models behind endpoints."""

    def complete(
        self, requests: Sequence[CompletionRequest], on_done: Callable[[int, int], None]
    ) -> list[CompletionAnswer]:
        """Return one answer per request, in their order; a request that failed has an ``error``, nothing raises for it.

        Args:
            requests: Questions; their ids are unique within a process.
            on_done: Called with answers there and requests in all; may raise to give up waiting.
        """
        ...


class NoCompletions:
    """Answers every question with an error: for runs without a parent that has endpoints."""

    def complete(
        self, requests: Sequence[CompletionRequest], on_done: Callable[[int, int], None]
    ) -> list[CompletionAnswer]:
        """Return ``unreachable`` for every request."""
        if requests:
            on_done(len(requests), len(requests))
        reason = "this run has no connection to endpoints"
        return [CompletionAnswer(request.id, code="unreachable", error=reason) for request in requests]


def new_request(model: str, messages: list[dict[str, str]], sampling: dict[str, Any]) -> CompletionRequest:
    """Return a question with an id that no other of this process has.

    Args:
        model: ``ENDPOINT`` or ``ENDPOINT/MODEL``.
        messages: Chat messages.
        sampling: Settings that the endpoint's own defaults give way to.
    """
    return CompletionRequest(next(_ids), model, messages, sampling)

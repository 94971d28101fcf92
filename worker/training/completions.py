"""The port through which graders and judges ask models that live elsewhere. The library itself opens no connection."""

from collections.abc import Callable, Sequence
from typing import Protocol

from worker.training.events import CompletionAnswer, CompletionRequest


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

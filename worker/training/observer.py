"""Who watches a run: the port through which the trainer reports and learns that it should end."""

from typing import Literal, Protocol

from worker.training.events import Event


class Observer(Protocol):
    """Receives events and answers whether to go on; asked between micro-batches, so both must return at once."""

    def emit(self, event: Event) -> None:
        """Take an event."""
        ...

    def stop_requested(self) -> Literal["stop", "cancel"] | None:
        """Return "stop" (write a checkpoint and end), "cancel" (end at once) or None."""
        ...


class NullObserver:
    """Hears nothing and never ends a run."""

    def emit(self, event: Event) -> None:
        """Drop the event."""

    def stop_requested(self) -> None:
        """Return None."""

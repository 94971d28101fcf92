"""Keeps what a training run tells."""

from __future__ import annotations

from worker.training.events import Event, MessageEvent, MetricsEvent

_STEPS_TOLD = 20


class Recorder:
    """An observer that keeps the loss of every step and all messages, and never ends a run.

    Attributes:
        losses: Mean training loss of each step.
        messages: What the trainer said, with its figures.
        metrics: The method's own figures of each step.
        guidance: Gain of the guidance check in nats per token; None where the method makes none.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.messages: list[dict[str, object]] = []
        self.metrics: list[dict[str, float]] = []
        self.guidance: float | None = None

    def emit(self, event: Event) -> None:
        """Keep ``event``; every few steps the loss is printed."""
        if isinstance(event, MetricsEvent):
            self.losses.append(event.train_loss)
            self.metrics.append(event.extra or {})
            if event.step % _STEPS_TOLD == 0:
                print(f"    step {event.step}/{event.total_steps}  loss {event.train_loss:.4f}", flush=True)
        if isinstance(event, MessageEvent):
            self.messages.append({"level": event.level, "message": event.message, "data": event.data})
            self.guidance = (event.data or {}).get("gain", self.guidance)

    def stop_requested(self) -> None:
        """Return None."""

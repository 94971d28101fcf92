"""A child's events in the words of the job's history."""

from dataclasses import dataclass

import msgspec

from app.db.base import Json
from app.jobs.auto import tell_choices
from worker.training.events import EvaluationEvent, Event, MessageEvent, MetricsEvent, PhaseEvent, SettingsEvent

_PHASES = {
    "preparing": "Reading the training data and loading the base model.",
    "rollout": "Sampling responses from the base model.",
    "grading": "Grading the responses.",
    "rationalization": "Answering the questions without a right response with the reference shown.",
    "regrading": "Grading these responses.",
    "judging": "Writing judgments on the wrong responses.",
    "scoring": "Scoring the contexts of the training data.",
    "training": "Training started.",
    "evaluating": "Evaluating on the validation data.",
    "explaining": "Recording the saliency of the pinned examples.",
    "saving": "Saving the adapter.",
}


@dataclass(frozen=True, slots=True)
class Row:
    """An event as it is stored; ``settings`` also go to the job itself."""

    level: str
    message: str
    type: str = "message"
    data: Json | None = None
    settings: SettingsEvent | None = None


def describe(event: Event) -> Row | None:
    """Return the row for ``event``, or None when it does not belong into the history."""
    match event:
        case MetricsEvent():
            return Row("info", _step_message(event), "metrics", _step_data(event))
        case MessageEvent():
            return Row(event.level, event.message.replace("\x00", ""), data=event.data)
        case SettingsEvent():
            data = {"hyperparameters": event.hyperparameters, "auto": event.auto}
            return Row("info", tell_choices(event.auto), data=data, settings=event)
        case EvaluationEvent():
            share = f"{event.correct} of {event.total} answers correct"
            message = f"Accuracy {event.stage} training: {event.accuracy:.1%} ({share})."
            return Row("info", message, data=msgspec.to_builtins(event))
        case PhaseEvent():
            return Row("info", _PHASES[event.phase], data={"phase": event.phase})
    return None


def _step_message(event: MetricsEvent) -> str:
    message = f"Step {event.step}/{event.total_steps}: training loss={event.train_loss:.2f}"
    return message if event.valid_loss is None else f"{message}, validation loss={event.valid_loss:.2f}"


def _step_data(event: MetricsEvent) -> Json:
    values: Json = msgspec.to_builtins(event)
    values.pop("type")
    return values | (values.pop("extra", None) or {})

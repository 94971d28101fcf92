r"""What a trainer process tells its parent: one JSON object a line on one pipe, discriminated by ``type``.

The parent passes the pipe's number in ``NLFT_EVENTS_FD`` (absent: standard output) and the child's end of a control
socket in ``NLFT_CONTROL_FD``. There the parent writes ``stop\n`` (checkpoint, exit 13) or ``cancel\n`` (exit 14); its
end of file means that the parent is gone, and the child kills its own process group. Any other line on it is a
``CompletionAnswer`` to an earlier ``CompletionRequest``: the parent is the child's only way to a network.

A trainer that is started before its job first finds an ``Assignment`` there, and open files with its first byte.
"""

from typing import Any, Literal

import msgspec

EVENTS_FD = "NLFT_EVENTS_FD"
CONTROL_FD = "NLFT_CONTROL_FD"
STOP = b"stop\n"
CANCEL = b"cancel\n"
LINE_BYTES = 1 << 20
"""Longest line either side takes; a longer one is dropped."""

Phase = Literal[
    "preparing",
    "rollout",
    "grading",
    "rationalization",
    "regrading",
    "judging",
    "scoring",
    "training",
    "evaluating",
    "explaining",
    "saving",
]
Stage = Literal["rollout", "grading", "rationalization", "regrading", "judging", "scoring"]


class Assignment(msgspec.Struct, frozen=True):
    """The job of a trainer that waits for one: its ``workspace``, and what its ``environment`` has besides."""

    workspace: str
    environment: dict[str, str]


class PhaseEvent(msgspec.Struct, tag="phase", tag_field="type", frozen=True):
    """The child entered ``phase``."""

    phase: Phase


class ProgressEvent(msgspec.Struct, tag="progress", tag_field="type", frozen=True):
    """``done`` of ``total`` units of the current phase; proof of life for the stall detector."""

    done: int
    total: int


class MessageEvent(msgspec.Struct, tag="message", tag_field="type", frozen=True):
    """Something the job's owner should read."""

    level: Literal["info", "warn"]
    message: str
    data: dict[str, Any] | None = None


class MetricsEvent(msgspec.Struct, tag="metrics", tag_field="type", frozen=True, omit_defaults=True):
    """One optimizer step: losses are means over examples in nats, accuracies in [0, 1], tokens of its sequences."""

    step: int
    total_steps: int
    epoch: float
    train_loss: float
    train_mean_token_accuracy: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    extra: dict[str, float] | None = None


class SettingsEvent(msgspec.Struct, tag="settings", tag_field="type", frozen=True):
    """Hyperparameters that had to wait for the rows: all values, and why "auto" stands for what it does.

    ``auto`` maps names to ``{"value", "reason"}``.
    """

    hyperparameters: dict[str, Any]
    auto: dict[str, dict[str, Any]]


class CheckpointEvent(msgspec.Struct, tag="checkpoint", tag_field="type", frozen=True):
    """A complete checkpoint lies in ``path``, relative to the workspace; its ``manifest.json`` was written last."""

    step: int
    path: str
    metrics: dict[str, float]


class EvaluationEvent(msgspec.Struct, tag="evaluation", tag_field="type", frozen=True):
    """Generated answers graded on the validation rows: ``stage`` before or after training, accuracy in [0, 1]."""

    stage: Literal["before", "after"]
    accuracy: float
    correct: int
    total: int
    seconds: float


class StageEvent(msgspec.Struct, tag="stage", tag_field="type", frozen=True):
    """Part ``part`` of a stage is done and lies in ``path``, relative to the workspace.

    The same ``key`` always means the same content, so whoever keeps the file can put it back before a later run, of
    this job or another, and the stage is not run again. ``summary`` has the counts that its owner should see.
    """

    stage: Stage
    key: str
    part: int
    path: str
    summary: dict[str, Any] = msgspec.field(default_factory=dict)


class SaliencyEvent(msgspec.Struct, tag="saliency", tag_field="type", frozen=True):
    """The pinned examples as the model sees them at ``step``: saliency records, one a line, in ``path``."""

    step: int
    path: str
    examples: int


class CompletionRequest(msgspec.Struct, tag="completion", tag_field="type", frozen=True):
    """A question to a model behind a configured endpoint; answered on the control channel under the same ``id``."""

    id: int
    model: str
    messages: list[dict[str, str]]
    sampling: dict[str, Any] = msgspec.field(default_factory=dict)


class CompletionAnswer(msgspec.Struct, frozen=True):
    """What came back: ``text``, or ``error`` with a machine ``code``.

    Codes: ``timeout``, ``refused`` (the endpoint said no), ``unreachable``, ``malformed``, ``budget_exhausted``,
    ``unknown_endpoint``. ``tokens`` is what question and answer cost, where it is known.
    """

    id: int
    text: str | None = None
    code: str | None = None
    error: str | None = None
    tokens: int | None = None


class ResultEvent(msgspec.Struct, tag="result", tag_field="type", frozen=True):
    """Training is done; the artifacts lie in ``outputs/``. ``usage`` is what it took (``estimation.Usage``)."""

    trained_tokens: int
    steps: int
    metrics: dict[str, float]
    usage: dict[str, float] = msgspec.field(default_factory=dict)


class ErrorEvent(msgspec.Struct, tag="error", tag_field="type", frozen=True):
    """The child gives up; sent once, before it exits with the error's code."""

    code: str
    message: str
    param: str | None = None
    data: dict[str, Any] | None = None


Event = (
    PhaseEvent
    | ProgressEvent
    | MessageEvent
    | SettingsEvent
    | MetricsEvent
    | CheckpointEvent
    | EvaluationEvent
    | StageEvent
    | SaliencyEvent
    | CompletionRequest
    | ResultEvent
    | ErrorEvent
)

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)


def encode(event: Event) -> bytes:
    """Return ``event`` as one JSON line with its newline."""
    return _encoder.encode(event) + b"\n"


def decode(line: bytes) -> Event:
    """Return the event on ``line``.

    Raises:
        msgspec.DecodeError: The line is no event of this protocol.
    """
    event: Event = _decoder.decode(line)
    return event

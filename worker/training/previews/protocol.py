r"""What a preview process and its parent tell each other. Free of torch.

Channels and environment are those of a trainer (``worker.training.events``). On the control channel the parent writes
``preview N\n``: answer ``requests/N.json`` of the workspace, a ``PreviewRequest``; or ``cancel N\n``: nobody wants that
answer any more. Its end of file means that the parent is gone. On the events pipe the child says, for each request in
turn, ``Answered`` or ``Refused``.
"""

from typing import Any, Literal

import msgspec

from worker.training.saliency_record import SaliencyRecord
from worker.training.spec import BaseModelRef, RuntimeSettings, SpecModel

REQUESTS_DIR = "requests"
ANSWERS_DIR = "answers"
ADAPTERS_DIR = "adapters"
CANCELLED = "cancelled"


class PreviewAdapter(SpecModel):
    """A tuned model's adapter: its folder, and a digest of its files that names it in the cache."""

    path: str
    digest: str


class PreviewRequest(SpecModel):
    """One preview, everything resolved.

    Attributes:
        owner: Whose rows these are; cached scores are never shared between owners.
        model: Name under which the caller knows the model.
        base_model: The base model.
        adapter: On top of it; None previews the base model itself.
        method: Name of the training method.
        hyperparameters: Complete.
        rows: The examples as JSON lines.
        most_tokens: Most tokens of all rendered contexts together.
        runtime: How to run; set by the worker.
    """

    owner: str
    model: str
    base_model: BaseModelRef
    adapter: PreviewAdapter | None = None
    method: str
    hyperparameters: dict[str, Any]
    rows: str
    most_tokens: int
    runtime: RuntimeSettings = RuntimeSettings()


class PreviewUsage(msgspec.Struct, frozen=True):
    """What an answer cost: tokens run through the model, tokens whose scores were known, seconds of computing."""

    scored_tokens: int
    cached_tokens: int
    seconds: float


class PreviewAnswer(msgspec.Struct, frozen=True):
    """The body of the HTTP answer; ``data`` holds a record for each example, in the order of the request."""

    model: str
    method: str
    hyperparameters: dict[str, Any]
    data: list[SaliencyRecord]
    usage: PreviewUsage
    object: Literal["list"] = "list"
    has_more: Literal[False] = False


class Answered(msgspec.Struct, tag="answered", tag_field="type", frozen=True):
    """The ``PreviewAnswer`` to request ``number`` lies in ``path``, relative to the workspace."""

    number: int
    path: str


class Refused(msgspec.Struct, tag="refused", tag_field="type", frozen=True):
    """There is no answer to request ``number``; ``code`` says why, ``CANCELLED`` that nobody wanted it."""

    number: int
    code: str
    message: str
    param: str | None = None
    data: dict[str, Any] | None = None


Reply = Answered | Refused

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Reply)


def encode(reply: Reply) -> bytes:
    """Return ``reply`` as one JSON line with its newline."""
    return _encoder.encode(reply) + b"\n"


def decode(line: bytes) -> Reply:
    """Return the reply on ``line``.

    Raises:
        msgspec.DecodeError: The line is none.
    """
    reply: Reply = _decoder.decode(line)
    return reply

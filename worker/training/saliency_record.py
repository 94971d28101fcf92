"""Saliency records: what a method thinks of every token of a row at one step (`docs/api.md`). Free of torch."""

from typing import Literal

import msgspec

TokenClass = Literal["salient", "neighbour", "other"]
Direction = Literal["raise", "lower", "none"]


class SaliencyToken(msgspec.Struct, frozen=True, gc=False):
    """One response token; probabilities lie in [0, 1].

    Attributes:
        text: What the token adds to the response.
        id: Its id.
        base: P(token) given the plain prompt, by the model at this step.
        frozen_base: The same by the bare base model, which frozen scoring compares the judgment with; null where
            nothing is compared (online scoring, rows without a judgment).
        reference: P(token) given the reference; null where the method shows none.
        judgment: P(token) given the judgment; null without one.
        weight: What multiplies the token's term in the loss.
        class_: Why (``class`` on the wire).
        direction: Whether training raises or lowers its probability.
    """

    text: str
    id: int
    base: float
    frozen_base: float | None
    reference: float | None
    judgment: float | None
    weight: float
    class_: TokenClass = msgspec.field(name="class")
    direction: Direction


class ExampleRef(msgspec.Struct, frozen=True):
    """Which row: its 1-based line in the training data (in a preview, its place in the request).

    ``correct`` tells whether its response counts as right; null where the method does not ask.
    """

    file_line: int
    correct: bool | None


class SaliencyRecord(msgspec.Struct, frozen=True):
    """One example at one step. ``loss`` is its mean loss in nats as the method computes it."""

    example: ExampleRef
    step: int
    loss: float
    weights_sum: float
    tokens: list[SaliencyToken]

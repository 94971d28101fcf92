"""What engine and methods exchange. Legend: B examples, N scored tokens, T tokens, V vocabulary, D hidden size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One rendered text: ``input_ids`` int32 [T], and ``scored`` int32 [n], the ascending positions (>= 1) to score."""

    input_ids: NDArray[np.int32]
    scored: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class RenderedExample:
    """What a method makes of one row: named sequences, and named scalars that its loss needs (``correct``: 0 or 1)."""

    sequences: Mapping[str, TokenSequence]
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScoringPass:
    """A forward pass that a method asks for.

    Attributes:
        name: Key of the result in ``ScoredBatch.passes``.
        sequence: Name of the rendered sequence to score; examples without it are left out of the pass.
        with_grad: The log-probabilities carry gradient. Costs a backward pass.
        with_adapter: False scores with the bare base model.
        with_hidden: Also return the final hidden states of the predicting positions.
        cached: Score before the first step and reuse at every step, by the bare base model where not ``renewed``.
        renewed: A cached pass that is scored again before every epoch, by the model as trained until then.
    """

    name: str
    sequence: str
    with_grad: bool = False
    with_adapter: bool = True
    with_hidden: bool = False
    cached: bool = False
    renewed: bool = False

    def __post_init__(self) -> None:
        if not self.with_adapter and self.with_grad:
            raise ValueError(f"pass {self.name}: without the adapter there is nothing to take a gradient of")
        if self.cached and (self.with_grad or self.with_hidden):
            raise ValueError(f"pass {self.name}: only log-probabilities without gradient can be cached")
        if (self.cached and self.with_adapter) != self.renewed:
            raise ValueError(f"pass {self.name}: renewed is what is cached with the adapter, and nothing else")


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Scores of one pass, ragged: the scored tokens of all present examples, one after the other.

    Attributes:
        logprobs: float32 [N], log P(token | everything before it).
        example: int64 [N], row in the batch (0..B-1) that each token belongs to; ascending.
        lengths: int64 [B], scored tokens per example; 0 where the example lacks the sequence.
        hidden: float32 [N, D] final hidden states at the positions that predict the tokens, or None.
    """

    logprobs: Tensor
    example: Tensor
    lengths: Tensor
    hidden: Tensor | None = None


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """All passes of a batch of B examples and their values, each float32 [B]."""

    passes: Mapping[str, TokenScores]
    values: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A method's answer.

    Attributes:
        losses: float32 [B], one loss per example. The engine sums them and divides by the examples of the step.
        token_weights: float32 [N] per scored token of the main pass, what multiplied its log-probability, or None.
        metrics: Detached scalars to report, each a mean over the batch.
    """

    losses: Tensor
    token_weights: Tensor | None = None
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a method makes of every scored token of its main pass, all [N] and without gradient.

    Attributes:
        weights: float32, what multiplies the token's term in the loss.
        salient: bool, the guidance singles the token out.
        neighbour: bool, it stands beside a salient one.
        lowered: bool, training lowers its probability.
        contexts: Log-probabilities beside those of the main pass, float32, NaN where an example lacks them; by the
            names of a saliency record: ``reference``, ``judgment``, ``frozen_base``.
    """

    weights: Tensor
    salient: Tensor
    neighbour: Tensor
    lowered: Tensor
    contexts: Mapping[str, Tensor]

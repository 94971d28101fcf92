"""Scores of rendered texts by content: what was scored once is never run through a model again while it is kept."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from worker.training.engine.prepared import PreparedExample
from worker.training.types import RenderedExample, ScoredBatch, ScoringPass, TokenScores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from worker.training.engine.scoring import Scorer
    from worker.training.types import TokenSequence

_SEQUENCE = "text"


@dataclass(frozen=True, slots=True)
class SequenceScores:
    """Scores of one text, in main memory: ``logprobs`` float32 [n]; ``hidden`` float32 [n, D] where asked for."""

    logprobs: Tensor
    hidden: Tensor | None

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return self.logprobs.nbytes + (0 if self.hidden is None else self.hidden.nbytes)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A text to score: under ``key``, which names owner, model and content."""

    key: bytes
    sequence: TokenSequence
    with_adapter: bool
    with_hidden: bool


class ScoreCache:
    """Scores by key, the least recently used dropped first.

    Args:
        most_bytes: Memory that the scores may take.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._scores: OrderedDict[bytes, SequenceScores] = OrderedDict()

    def find(self, wanted: Wanted) -> SequenceScores | None:
        """Return the scores of ``wanted``, if they are kept with all that it asks for."""
        found = self._scores.get(wanted.key)
        if found is None or (wanted.with_hidden and found.hidden is None):
            return None
        self._scores.move_to_end(wanted.key)
        return found

    def keep(self, key: bytes, scores: SequenceScores) -> None:
        """Keep ``scores``, and let go of others as far as their memory is needed."""
        replaced = self._scores.pop(key, None)
        self._bytes += scores.bytes - (0 if replaced is None else replaced.bytes)
        self._scores[key] = scores
        while self._bytes > self._most_bytes and len(self._scores) > 1:
            self._bytes -= self._scores.popitem(last=False)[1].bytes


def key_of(owner: str, model: str, sequence: TokenSequence) -> bytes:
    """Return the key of ``sequence`` as scored for ``owner`` by ``model``."""
    head = f"{owner}\n{model}\n{len(sequence.input_ids)}\n".encode()
    return hashlib.sha256(head + sequence.input_ids.tobytes() + sequence.scored.tobytes()).digest()


def score_sequences(scorer: Scorer, wanted: Sequence[Wanted], check: Callable[[], None]) -> dict[bytes, SequenceScores]:
    """Return the scores of ``wanted`` by key, a micro-batch at a time; ``check`` may raise between two of them.

    Raises:
        DeviceOutOfMemoryError: A single text does not fit the device.
    """
    found: dict[bytes, SequenceScores] = {}
    with scorer.attention():
        for with_adapter in (True, False):
            for with_hidden in (True, False):
                kind = [w for w in wanted if (w.with_adapter, w.with_hidden) == (with_adapter, with_hidden)]
                scoring_pass = ScoringPass(_SEQUENCE, _SEQUENCE, with_adapter=with_adapter, with_hidden=with_hidden)
                for group in scorer.group([w.sequence for w in kind]):
                    check()
                    found |= _score(scorer, [kind[index] for index in group], scoring_pass)
    return found


def assemble(rows: Sequence[Sequence[SequenceScores | None]], passes: Sequence[ScoringPass]) -> dict[str, TokenScores]:
    """Return the scores of ``passes`` over a batch; ``rows`` holds, for each row, its scores in the order of passes."""
    return {
        scoring_pass.name: _join([row[index] for row in rows], with_hidden=scoring_pass.with_hidden)
        for index, scoring_pass in enumerate(passes)
    }


def batch_of(scores: dict[str, TokenScores], examples: Sequence[RenderedExample]) -> ScoredBatch:
    """Return ``scores`` with the values of ``examples``."""
    names = examples[0].values.keys()
    return ScoredBatch(scores, {name: torch.tensor([example.values[name] for example in examples]) for name in names})


def _score(scorer: Scorer, wanted: Sequence[Wanted], scoring_pass: ScoringPass) -> dict[bytes, SequenceScores]:
    examples = [PreparedExample(0, RenderedExample({_SEQUENCE: w.sequence})) for w in wanted]
    scores = scorer.measure(examples, [scoring_pass]).passes[_SEQUENCE]
    lengths = scores.lengths.tolist()
    logprobs = torch.split(scores.logprobs.float().cpu(), lengths)
    hidden = [None] * len(lengths) if scores.hidden is None else torch.split(scores.hidden.float().cpu(), lengths)
    # Clones, since a slice would keep the whole micro-batch in memory.
    return {
        w.key: SequenceScores(own.clone(), None if states is None else states.clone())
        for w, own, states in zip(wanted, logprobs, hidden, strict=True)
    }


def _join(parts: Sequence[SequenceScores | None], *, with_hidden: bool) -> TokenScores:
    """Return the scores of one pass over a batch; None stands for a row without the sequence."""
    present = [part for part in parts if part is not None]
    lengths = torch.tensor([0 if part is None else len(part.logprobs) for part in parts])
    hidden = [part.hidden for part in present if part.hidden is not None] if with_hidden else []
    return TokenScores(
        logprobs=torch.cat([part.logprobs for part in present]) if present else torch.zeros(0),
        example=torch.repeat_interleave(torch.arange(len(parts)), lengths),
        lengths=lengths,
        hidden=torch.cat(hidden) if hidden else None,
    )

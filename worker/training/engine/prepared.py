"""Rows as the engine takes them, and which of them share a micro-batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from worker.training.engine.prefixes import group_by_prefix, join_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from worker.training.types import RenderedExample, ScoringPass

# Attention copies a shared beginning's keys and values for each that goes on from it, and a backward pass keeps the
# copies: a layer's are a tenth to a fortieth of all that it keeps of a token.
_MOST_KEYS = 8


@dataclass(frozen=True, slots=True)
class PreparedExample:
    """A rendered row of 1-based ``line`` and, by pass name, the float32 log-probabilities [n] of its cached passes."""

    line: int
    rendered: RenderedExample
    cached: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def texts(self, passes: Sequence[ScoringPass]) -> list[NDArray[np.int32]]:
        """Return the tokens of each sequence that ``passes`` score."""
        wanted = (self.rendered.sequences.get(scoring_pass.sequence) for scoring_pass in passes)
        return [sequence.input_ids for sequence in wanted if sequence is not None]

    def tokens(self, passes: Sequence[ScoringPass]) -> int:
        """Return how many tokens those are."""
        return sum(len(text) for text in self.texts(passes))


def group_examples(
    examples: Sequence[PreparedExample], passes: Sequence[ScoringPass], budget: int, *, shares: bool
) -> list[list[int]]:
    """Return indices of ``examples`` in micro-batches of at most ``budget`` tokens of ``passes``, which run together.

    Where one would be too large, and what sequences begin with alike ``shares`` a pass, examples that begin alike come
    together, and their beginning counts once.
    """
    texts = [join_texts(example.texts(passes), shares=shares) for example in examples]
    if texts and sum(map(len, texts)) <= budget:
        return [list(range(len(texts)))]
    groups = group_by_prefix(texts, budget, shares=shares, most_keys=_MOST_KEYS * budget)
    return sorted(sorted(group) for group in groups)

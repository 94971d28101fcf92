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
_KEYS_PER_TOKEN = 8


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
    """Return indices of ``examples`` in micro-batches for ``passes``, which run together.

    Where all have more than ``budget`` tokens, and a pass ``shares`` what sequences begin with alike, examples that
    begin alike come together; see ``group_by_prefix``.
    """
    texts = [join_texts(example.texts(passes), shares=shares) for example in examples]
    if texts and sum(map(len, texts)) <= budget:
        return [list(range(len(texts)))]
    groups = group_by_prefix(texts, budget, shares=shares, keys_per_token=_KEYS_PER_TOKEN)
    return sorted(sorted(group) for group in groups)

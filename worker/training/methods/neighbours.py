"""Neighbours of salient tokens ("minimum clustering", arXiv 2412.20382, section 3.2) over final hidden states.

From each salient token a walk goes left, then right. It takes the next token in while the cosine distance between the
running centre and that token exceeds a threshold (`distance`, as published) or stays within it (`similarity`, what the
published variable's name suggests), moves the centre to the mean of both, and stops at the first token that fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from worker.training.types import TokenScores

_SMALLEST_NORM = 1e-8


def find_neighbours(tokens: TokenScores, salient: Tensor, *, cluster: str, distance: float) -> Tensor:
    """Return which tokens a walk from a salient token takes in and that are not salient themselves, bool [N].

    All walks of the batch advance together, so the device is asked once per walked distance, not once per token.

    Raises:
        ValueError: Neighbours are asked for and the pass holds no hidden states.
    """
    taken = salient.new_zeros(salient.shape)
    if cluster == "none":
        return taken
    if tokens.hidden is None:
        msg = "neighbours need the hidden states of the base pass"
        raise ValueError(msg)
    starts = salient.nonzero().squeeze(1)
    walks = _Walks(tokens.example, tokens.hidden, starts, tokens.hidden[starts], taken)
    for direction in (-1, 1):
        walks.advance(direction, takes_distant=cluster == "distance", distance=distance)
    return taken & ~salient


@dataclass(frozen=True, slots=True)
class _Walks:
    """One walk per salient token: ``starts`` int64 [S], running ``centres`` [S, D]; ``taken`` bool [N] is shared."""

    example: Tensor
    hidden: Tensor
    starts: Tensor
    centres: Tensor
    taken: Tensor

    def advance(self, direction: int, *, takes_distant: bool, distance: float) -> None:
        """Walk until every walk has stopped; the centres stay where they came to."""
        last = self.example.shape[0] - 1
        going = self.starts.new_ones(self.starts.shape).cumsum(0) - 1
        positions = self.starts
        while going.numel():
            positions = positions + direction
            inside = (positions >= 0) & (positions <= last)
            inside &= self.example[positions.clamp(0, last)] == self.example[self.starts[going]]
            going, positions = going[inside], positions[inside]
            apart = 1 - _cosine(self.centres[going], self.hidden[positions])
            accepted = apart > distance if takes_distant else apart <= distance
            going, positions = going[accepted], positions[accepted]
            self.taken[positions] = True
            self.centres[going] = (self.centres[going] + self.hidden[positions]) / 2


def _cosine(left: Tensor, right: Tensor) -> Tensor:
    """Return the cosine of corresponding rows of [S, D]; 0 for a zero vector."""
    norms = (left.square().sum(dim=1) * right.square().sum(dim=1)).sqrt()
    products: Tensor = (left * right).sum(dim=1)
    return products / norms.clamp(min=_SMALLEST_NORM)

"""Packing: several documents behind one another in one row, without padding; all metadata is built here, on the host.

Nothing inside the model reads a tensor back: lengths stay Python integers, boundaries go to the device once a pack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from worker.training.types import TokenSequence


@dataclass(frozen=True, slots=True)
class Layout:
    """Where documents begin and end: ``lengths`` in tokens, on the host; ``boundaries`` int32 [documents + 1]."""

    lengths: tuple[int, ...]
    boundaries: Tensor

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return max(self.lengths)


@dataclass(frozen=True, slots=True)
class Pack:
    """Documents ready for one forward pass.

    Attributes:
        layout: Where the documents lie.
        input_ids: int64 [1, T].
        position_ids: int64 [1, T], restarting at 0 in every document.
        predicting: int64 [N], indices into T of the positions whose output predicts a scored token.
        targets: int64 [N], the scored tokens.
    """

    layout: Layout
    input_ids: Tensor
    position_ids: Tensor
    predicting: Tensor
    targets: Tensor


def pack_documents(documents: Sequence[TokenSequence], device: torch.device) -> Pack:
    """Return ``documents`` (at least one) as one pack on ``device``."""
    lengths = tuple(len(document.input_ids) for document in documents)
    boundaries = np.concatenate(([0], np.cumsum(lengths)))
    ids = np.concatenate([document.input_ids for document in documents])
    positions = np.concatenate([np.arange(length) for length in lengths])
    scored = np.concatenate([document.scored + start for document, start in zip(documents, boundaries, strict=False)])

    def place(values: np.ndarray, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.from_numpy(values).to(device=device, dtype=dtype, non_blocking=True)

    return Pack(
        Layout(lengths, place(boundaries, torch.int32)),
        place(ids).unsqueeze(0),
        place(positions).unsqueeze(0),
        place(scored - 1),
        place(ids[scored]),
    )


def group_by_budget(sizes: Sequence[int], budget: int) -> Iterator[range]:
    """Yield runs of consecutive indices whose sizes sum to at most ``budget``; an oversized one comes alone."""
    start, total = 0, 0
    for index, size in enumerate(sizes):
        if index > start and total + size > budget:
            yield range(start, index)
            start, total = index, 0
        total += size
    if start < len(sizes):
        yield range(start, len(sizes))

"""Packing: several documents behind one another in one row, without padding; all metadata is built here, on the host.

Documents that begin alike can share that beginning: the row then holds a tree of segments (a prefix, and its branches
behind it), each document is a path through the tree, and no token is computed twice. Exact, since a causal model's
state at a token depends on nothing but the tokens before it.

Nothing inside the model reads a tensor back: lengths stay Python integers, boundaries go to the device once a pack.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from worker.training.engine.prefixes import find_segments

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from worker.training.engine.prefixes import Segment
    from worker.training.types import TokenSequence


@dataclass(frozen=True, slots=True)
class SharedKeys:
    """What each segment's queries see where segments share prefixes: K keys in all, a document's beginning first.

    Attributes:
        spans: For each segment the ranges of the row that hold its keys, in order of position, its own tokens last.
        places: int64 [K], those ranges one after the other.
        boundaries: int32 [segments + 1], where each segment's keys begin in ``places``.
        longest: Keys of the segment that has most.
    """

    spans: tuple[tuple[range, ...], ...]
    places: Tensor
    boundaries: Tensor
    longest: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where segments begin and end: ``lengths`` in tokens, on the host; ``boundaries`` int32 [segments + 1].

    Without ``shared`` every segment is a document of its own.
    """

    lengths: tuple[int, ...]
    boundaries: Tensor
    shared: SharedKeys | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest segment."""
        return max(self.lengths)


@dataclass(frozen=True, slots=True)
class Pack:
    """Documents ready for one forward pass.

    Attributes:
        layout: Where the segments lie.
        input_ids: int64 [1, T].
        position_ids: int64 [1, T], of each token in its documents.
        predicting: int64 [N], indices into T of the positions whose output predicts a scored token.
        read: int64 [M], the same indices, each once.
        targets: int64 [N], the scored tokens.
        places: For each document the indices into T of its tokens, on the host.
    """

    layout: Layout
    input_ids: Tensor
    position_ids: Tensor
    predicting: Tensor
    read: Tensor
    targets: Tensor
    places: tuple[NDArray[np.int64], ...]


def pack_documents(documents: Sequence[TokenSequence], device: torch.device, *, shares: bool = False) -> Pack:
    """Return ``documents`` (at least one) as one pack on ``device``; ``shares``: what begins alike lies there once."""
    ids = [document.input_ids for document in documents]
    segments, paths = find_segments(ids, shares=shares)
    lengths = tuple(segment.stop - segment.start for segment in segments)
    boundaries = np.concatenate(([0], np.cumsum(lengths)))
    ranges = [range(*ends) for ends in pairwise(boundaries.tolist())]
    places = tuple(np.concatenate([ranges[index] for index in path]) for path in paths)
    predicting = np.concatenate([own[document.scored - 1] for own, document in zip(places, documents, strict=True)])
    return Pack(
        Layout(lengths, _place(boundaries, device, torch.int32), _share_keys(segments, ranges, device)),
        _place(np.concatenate([ids[s.document][s.start : s.stop] for s in segments]), device).unsqueeze(0),
        _place(np.concatenate([np.arange(s.start, s.stop) for s in segments]), device).unsqueeze(0),
        _place(predicting, device),
        _place(np.unique(predicting), device),
        _place(np.concatenate([document.input_ids[document.scored] for document in documents]), device),
        places,
    )


def _share_keys(segments: Sequence[Segment], ranges: Sequence[range], device: torch.device) -> SharedKeys | None:
    if not any(segment.ancestors for segment in segments):
        return None
    paths = [(*segment.ancestors, index) for index, segment in enumerate(segments)]
    keys = [np.concatenate([ranges[index] for index in path]) for path in paths]
    boundaries = np.concatenate(([0], np.cumsum([len(own) for own in keys])))
    return SharedKeys(
        tuple(_join([ranges[index] for index in path]) for path in paths),
        _place(np.concatenate(keys), device),
        _place(boundaries, device, torch.int32),
        max(len(own) for own in keys),
    )


def _join(ranges: Sequence[range]) -> tuple[range, ...]:
    """Return ``ranges`` with those joined that touch: a first branch lies right behind its prefix."""
    joined = [ranges[0]]
    for following in ranges[1:]:
        if joined[-1].stop == following.start:
            joined[-1] = range(joined[-1].start, following.stop)
        else:
            joined.append(following)
    return tuple(joined)


def _place(values: NDArray[np.integer], device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.from_numpy(values).to(device=device, dtype=dtype, non_blocking=True)


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

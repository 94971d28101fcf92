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
from worker.training.engine.transfer import to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from worker.training.engine.prefix_cache import PrefixCache
    from worker.training.engine.prefixes import Segment
    from worker.training.types import TokenSequence


@dataclass(frozen=True, slots=True)
class SharedKeys:
    """What each segment's queries see where segments share prefixes: K keys in all, a document's beginning first.

    Attributes:
        spans: For each segment the ranges of rows that hold its keys, in order of position, its own tokens last.
        places: int64 [K], those ranges one after the other.
        boundaries: int32 [segments + 1], where each segment's keys begin in ``places``.
        longest: Keys of the segment that has most.
        cached: Rows of a prefix cache that are counted before those of the pack; 0 where it uses none.
    """

    spans: tuple[tuple[range, ...], ...]
    places: Tensor
    boundaries: Tensor
    longest: int
    cached: int = 0


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
        places: For each document the indices into T of its tokens, on the host; those in a prefix cache have none.
    """

    layout: Layout
    input_ids: Tensor
    position_ids: Tensor
    predicting: Tensor
    read: Tensor
    targets: Tensor
    places: tuple[NDArray[np.int64], ...]


def pack_documents(
    documents: Sequence[TokenSequence],
    device: torch.device,
    *,
    shares: bool = False,
    behind: PrefixCache | None = None,
) -> Pack:
    """Return ``documents`` (at least one) as one pack on ``device``.

    Args:
        documents: What to pack.
        device: Where the tensors go.
        shares: What documents begin with alike lies there once.
        behind: What they begin with like documents in this cache does not lie there at all; only where ``shares``.
    """
    known = () if behind is None else behind.documents
    ids = [document.input_ids for document in (*known, *documents)]
    segments, paths = find_segments(ids, shares=shares)
    paths = paths[len(known) :]
    lent = _find_lent(segments, paths, documents, known=len(known))
    computed = sorted({index for path in paths for index in path} - lent)
    lengths = tuple(segments[index].stop - segments[index].start for index in computed)
    boundaries = np.concatenate(([0], np.cumsum(lengths)))
    cached = behind.rows if behind is not None and lent else 0
    rows = {
        index: np.arange(*ends) + cached for index, ends in zip(computed, pairwise(boundaries.tolist()), strict=True)
    }
    rows |= {index: _find_rows(segments[index], behind) for index in lent if behind is not None}
    places = [np.concatenate([rows[index] for index in path]) - cached for path in paths]
    predicting = np.concatenate([own[document.scored - 1] for own, document in zip(places, documents, strict=True)])
    spelled = [segments[index] for index in computed]
    keys = [[rows[place] for place in (*segments[index].ancestors, index)] for index in computed]
    return Pack(
        Layout(lengths, to_device(boundaries, device, torch.int32), _share_keys(keys, cached, device)),
        to_device(np.concatenate([ids[s.document][s.start : s.stop] for s in spelled]), device).unsqueeze(0),
        to_device(np.concatenate([np.arange(s.start, s.stop) for s in spelled]), device).unsqueeze(0),
        to_device(predicting, device),
        to_device(np.unique(predicting), device),
        to_device(np.concatenate([document.input_ids[document.scored] for document in documents]), device),
        tuple(own[own >= 0] for own in places),
    )


def _find_lent(
    segments: Sequence[Segment], paths: Sequence[Sequence[int]], documents: Sequence[TokenSequence], *, known: int
) -> set[int]:
    """Return those ``segments`` on the ``paths`` of ``documents`` whose keys suffice.

    They spell one of the first ``known`` texts, which come before the documents, and predict nothing that is asked for.
    """
    asked = {
        index
        for path, document in zip(paths, documents, strict=True)
        for index in path
        # A cache holds no final hidden states. The last token is always computed, so that there is something to pack.
        if segments[index].stop > (document.scored[0] - 1 if len(document.scored) else len(document.input_ids) - 1)
    }
    return {index for path in paths for index in path if segments[index].document < known} - asked


def _find_rows(segment: Segment, cache: PrefixCache) -> NDArray[np.int64]:
    return cache.places[segment.document][segment.start : segment.stop]


def _share_keys(keys: Sequence[Sequence[NDArray[np.int64]]], cached: int, device: torch.device) -> SharedKeys | None:
    """Return what the segments' queries see, from the rows of each one's ancestors and its own; None: those alone."""
    if all(len(parts) == 1 for parts in keys):
        return None
    places = [np.concatenate(parts) for parts in keys]
    boundaries = np.concatenate(([0], np.cumsum([len(own) for own in places])))
    return SharedKeys(
        tuple(_find_runs(own) for own in places),
        to_device(np.concatenate(places), device),
        to_device(boundaries, device, torch.int32),
        max(len(own) for own in places),
        cached,
    )


def _find_runs(places: NDArray[np.int64]) -> tuple[range, ...]:
    """Return ``places`` as ranges of consecutive ones: a first branch lies right behind its prefix."""
    runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
    return tuple(range(int(run[0]), int(run[-1]) + 1) for run in runs)

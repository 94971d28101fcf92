"""Which documents begin alike: the tree of their common prefixes, and micro-batches that keep sharers together."""

from __future__ import annotations

import math
from bisect import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from worker.training.data.beginnings import count_common

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LEAST_SHARED = 8
"""Tokens from which on a common prefix is shared; below, one more attention call costs what the tokens would."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens ``start`` to ``stop`` of ``document`` and of all that begin like it, behind the tokens of ``ancestors``.

    ``ancestors`` are indices of earlier segments, the document's first tokens first.
    """

    document: int
    start: int
    stop: int
    ancestors: tuple[int, ...] = ()


def find_segments(ids: Sequence[NDArray[np.int32]], *, shares: bool) -> tuple[list[Segment], list[tuple[int, ...]]]:
    """Return the segments of the documents ``ids``, parents first, and for each document the path that spells it.

    Where nothing is shared, the segments are the documents in their order. No token is in more segments than in
    documents, so sharing never adds any.
    """
    if not shares:
        return [Segment(index, 0, len(own)) for index, own in enumerate(ids)], [(index,) for index in range(len(ids))]
    segments: list[Segment] = []
    paths: list[tuple[int, ...]] = [()] * len(ids)
    pending: list[tuple[list[int], int]] = [(list(range(len(ids))), 0)]
    while pending:
        members, start = pending.pop()
        branches = _branch(ids, members, start)
        if len(branches) > 1:
            pending += [(branch, start) for branch in reversed(branches)]
            continue
        for branch in branches:
            stop = min(count_common(ids[branch[0]], ids[index]) for index in branch)
            segments.append(Segment(branch[0], start, stop, paths[branch[0]]))
            for index in branch:
                paths[index] = (*paths[index], len(segments) - 1)
            pending.append((branch, stop))
    return segments, paths


def group_by_prefix(
    ids: Sequence[NDArray[np.int32]],
    budget: int,
    *,
    shares: bool,
    known: Sequence[NDArray[np.int32]] = (),
    keys_per_token: float = math.inf,
) -> list[list[int]]:
    """Return indices of documents in micro-batches of at most ``budget`` tokens, those that begin alike together.

    What all of a micro-batch begin with is not counted: each of them needs it, however few they are. An oversized
    document comes alone, or with others that share its beginning.

    Args:
        ids: The documents.
        budget: Most tokens of a micro-batch, without that beginning.
        shares: Tokens that two neighbours begin with are computed once.
        known: Texts; what a document begins with like one of them is not computed at all.
        keys_per_token: Most tokens that the documents of a micro-batch have, for each that is computed.
    """
    spelled = [_spell(own) for own in ids]
    lent = _count_known(ids, spelled, known)
    order = sorted(range(len(ids)), key=spelled.__getitem__)
    groups: list[list[int]] = []
    total = keys = stem = 0
    for position, index in enumerate(order):
        own = len(ids[index])
        common = _count_shared(ids[order[position - 1]], ids[index]) if position and shares else 0
        more, seen, alike = total + own - max(common, lent[index]), keys + own, min(stem, common)
        if groups and more - max(0, alike - lent[index]) <= budget and seen <= keys_per_token * more:
            groups[-1].append(index)
            total, keys, stem = more, seen, alike
        else:
            groups.append([index])
            total, keys, stem = own - lent[index], own, own
    return groups


def join_texts(texts: Sequence[NDArray[np.int32]], *, shares: bool) -> NDArray[np.int32]:
    """Return the tokens that a pass over ``texts`` has: of those that begin like the first, their rest alone."""
    first, *others = texts
    return np.concatenate([first, *(own[_count_shared(first, own) if shares else 0 :] for own in others)])


def _count_known(
    ids: Sequence[NDArray[np.int32]], spelled: Sequence[bytes], known: Sequence[NDArray[np.int32]]
) -> list[int]:
    """Return for each document, ``spelled`` as it sorts, how many tokens it begins with that a known text does."""
    ordered = sorted(known, key=_spell)
    places = [bisect(ordered, own, key=_spell) for own in spelled]
    # Among sorted texts the longest common beginning is the one with a neighbour.
    return [
        max((_count_shared(own, one) for one in ordered[max(0, place - 1) : place + 1]), default=0)
        for own, place in zip(ids, places, strict=True)
    ]


def _count_shared(first: NDArray[np.int32], second: NDArray[np.int32]) -> int:
    common = count_common(first, second)
    return common if common >= LEAST_SHARED else 0


def _spell(ids: NDArray[np.int32]) -> bytes:
    """Return bytes that sort as the tokens do."""
    return ids.astype(">i4").tobytes()


def _branch(ids: Sequence[NDArray[np.int32]], members: Sequence[int], start: int) -> list[list[int]]:
    """Return ``members`` that go on after ``start``, together where their next tokens are the same."""
    branches: dict[bytes, list[int]] = {}
    for index in members:
        if start < len(ids[index]):
            branches.setdefault(ids[index][start : start + LEAST_SHARED].tobytes(), []).append(index)
    return list(branches.values())

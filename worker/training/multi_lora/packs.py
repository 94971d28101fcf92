"""Joins the packs of several runs into one: what a run's documents share stays shared, runs share nothing."""

from __future__ import annotations

from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from worker.training.engine.packing import Layout, Pack, SharedKeys
from worker.training.engine.transfer import to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def join_packs(packs: Sequence[Pack]) -> tuple[Pack, list[slice]]:
    """Return one pack of all documents of ``packs`` and the rows of each pack in it, in their order."""
    starts = list(accumulate((pack.input_ids.shape[1] for pack in packs), initial=0))
    predicting = [pack.predicting + start for pack, start in zip(packs, starts, strict=False)]
    joined = Pack(
        _join_layouts([pack.layout for pack in packs], starts),
        torch.cat([pack.input_ids for pack in packs], dim=1),
        torch.cat([pack.position_ids for pack in packs], dim=1),
        read=torch.cat([pack.read + start for pack, start in zip(packs, starts, strict=False)]),
        predicting=torch.cat(predicting),
        targets=torch.cat([pack.targets for pack in packs]),
        places=tuple(own + start for pack, start in zip(packs, starts, strict=False) for own in pack.places),
    )
    return joined, [slice(*ends) for ends in pairwise(starts)]


def _join_layouts(layouts: Sequence[Layout], starts: Sequence[int]) -> Layout:
    lengths = tuple(chain.from_iterable(layout.lengths for layout in layouts))
    device = layouts[0].boundaries.device
    shared = None
    if any(layout.shared is not None for layout in layouts):
        spans = [_spans(layout, start) for layout, start in zip(layouts, starts, strict=False)]
        shared = _share(tuple(chain.from_iterable(spans)), device)
    return Layout(lengths, _boundaries(lengths, device), shared)


def _spans(layout: Layout, start: int) -> list[tuple[range, ...]]:
    """Return the keys of every segment, in a row where the layout's begins at ``start``."""
    if layout.shared is None:
        ends = accumulate(layout.lengths, initial=start)
        return [(range(*own),) for own in pairwise(ends)]
    return [tuple(range(one.start + start, one.stop + start) for one in own) for own in layout.shared.spans]


def _share(spans: tuple[tuple[range, ...], ...], device: torch.device) -> SharedKeys:
    lengths = [sum(len(one) for one in own) for own in spans]
    places = np.concatenate([np.arange(one.start, one.stop) for own in spans for one in own])
    return SharedKeys(spans, to_device(places, device), _boundaries(lengths, device), max(lengths))


def _boundaries(lengths: Sequence[int], device: torch.device) -> Tensor:
    return to_device(np.cumsum([0, *lengths]), device, torch.int32)

"""Hidden states of texts as they leave the frozen layers, kept from epoch to epoch.

An entry is a function of its text alone: it is computed by itself, never in a pack. So no figure depends on what is in
the cache. A run that is continued with an empty one ends in the same bits, and so does one whose texts do not all fit.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from worker.training.types import TokenSequence

logger = logging.getLogger(__name__)


class HiddenStateCache:
    """Hidden states [T, D] by the tokens of their text, in host memory, in the dtype in which the model computes.

    Texts come again once an epoch each, so the one used longest ago is the one needed next: nothing is ever thrown out
    for another. Once full, the cache takes in nothing more, and those left out are computed whenever they come.

    Args:
        limit_bytes: Most that is kept.

    Attributes:
        kept_bytes: What is kept now.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.kept_bytes = 0
        self._limit_bytes = limit_bytes
        self._is_full = False
        self._entries: dict[bytes, Tensor] = {}

    def find(self, document: TokenSequence, compute: Callable[[TokenSequence], Tensor]) -> Tensor:
        """Return the hidden states of ``document`` [T, D]: those that are kept, or else what ``compute`` returns."""
        digest = hashlib.sha256(np.ascontiguousarray(document.input_ids, dtype="<i4").tobytes()).digest()
        found = self._entries.get(digest)
        if found is not None:
            return found
        made = compute(document)
        size = made.numel() * made.itemsize
        if self.kept_bytes + size <= self._limit_bytes:
            self._entries[digest] = made.cpu()
            self.kept_bytes += size
        elif not self._is_full:
            self._is_full = True
            logger.info("no room for more hidden states: %d texts take %d bytes", len(self._entries), self.kept_bytes)
        return made

"""How far texts begin alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def count_common(first: NDArray[np.int32], *others: NDArray[np.int32]) -> int:
    """Return how many tokens all of these texts begin with alike."""
    common = len(first)
    for other in others:
        shorter = min(common, len(other))
        differs = np.flatnonzero(first[:shorter] != other[:shorter])
        common = int(differs[0]) if len(differs) else shorter
    return common

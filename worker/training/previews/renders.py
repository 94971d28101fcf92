"""Rendered examples by what they were rendered from: changed thresholds render nothing again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.training.methods.base import Hyperparameters
    from worker.training.types import RenderedExample

Rendered = tuple[tuple[int, ...], list["RenderedExample"]]
_KEPT = 16


class RenderCache:
    """Remembers the last renderings, each with the hyperparameters that it has read; others cannot change it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, tuple[dict[str, Any], Rendered]] = OrderedDict()

    def render(self, source: str, hyperparameters: Hyperparameters, render: Callable[[Any], Rendered]) -> Rendered:
        """Return what ``render`` makes of hyperparameters like these.

        Args:
            source: Everything else that the result depends on.
            hyperparameters: What ``render`` may read.
            render: Takes the hyperparameters, or what stands in for them.
        """
        key = hashlib.sha256(source.encode()).digest()
        known = self._kept.get(key)
        if known is not None and all(getattr(hyperparameters, name) == value for name, value in known[0].items()):
            self._kept.move_to_end(key)
            return known[1]
        watched = _Watched(hyperparameters)
        rendered = render(watched)
        self._kept[key] = (watched.values_read, rendered)
        self._kept.move_to_end(key)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return rendered


class _Watched:
    """Stands in for hyperparameters and notes which of them are read."""

    def __init__(self, hyperparameters: Hyperparameters) -> None:
        self._hyperparameters = hyperparameters
        self.values_read: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._hyperparameters, name)
        self.values_read[name] = value
        return value

"""Keys and values of one pass, lent to later passes over texts that begin like its documents.

What a decoder computes for a token depends on nothing but the tokens before it, so a text that begins like a document
whose keys and values are known needs no more than its own rest (prefix caching, as in vLLM,
https://arxiv.org/abs/2309.06180). The pass that trains a row keeps these tensors for its backward pass anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from worker.training.engine.packing import Pack
    from worker.training.types import TokenSequence


class PrefixCache:
    """The keys and values of every attention layer over the documents of one pass; empty until a pass has filled it.

    Good for as long as the model's weights, adapter included, are those of that pass.

    Attributes:
        documents: Of that pass.
        places: For each of them the rows of its tokens, int64.
        rows: Rows in all.
    """

    def __init__(self) -> None:
        self.documents: Sequence[TokenSequence] = ()
        self.places: Sequence[NDArray[np.int64]] = ()
        self.rows = 0
        self._layers: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(self, layer: nn.Module, key: Tensor, value: Tensor) -> None:
        """Take in what attention ``layer`` computes from, each [1, heads, rows, head size], without its graph."""
        self._layers[layer] = key.detach(), value.detach()

    def complete(self, documents: Sequence[TokenSequence], pack: Pack) -> None:
        """Take in what the pass was over, once it is done."""
        self.documents, self.places, self.rows = documents, pack.places, pack.input_ids.shape[1]

    def prepend(self, layer: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the kept rows of attention ``layer``, and behind them ``key`` and ``value`` [1, heads, T, head size].

        Raises:
            KeyError: The layer did not take part in the pass that filled this.
        """
        kept_key, kept_value = self._layers[layer]
        return torch.cat([kept_key, key], dim=2), torch.cat([kept_value, value], dim=2)

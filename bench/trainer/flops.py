"""Floating-point operations that a step needs, counted from shapes alone.

A product of [T, in] by [in, out] is 2 T in out operations. A frozen layer costs its forward product and the gradient of
its input, never the gradient of its weight: 4 instead of 6 operations a parameter and trained token. Norms, rotary
embeddings, activations and the optimizer are left out: they move bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from worker.training.data.beginnings import count_common

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from transformers import PreTrainedConfig

    from worker.training.types import TokenSequence


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model with low-rank adapters on every linear layer of its body.

    Attributes:
        linears: (in, out) of every linear layer of the body, in order.
        hidden: D.
        vocabulary: V.
        layers: L.
        attention_width: Query heads times head size.
        rank: r of the adapters.
    """

    linears: tuple[tuple[int, int], ...]
    hidden: int
    vocabulary: int
    layers: int
    attention_width: int
    rank: int

    @classmethod
    def of(cls, config: PreTrainedConfig, *, rank: int) -> Shape:
        """Return the sizes of the model that ``config`` describes; no weights are made."""
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        head = model.get_output_embeddings()
        linears = [
            (module.in_features, module.out_features)
            for module in model.modules()
            if isinstance(module, nn.Linear) and module is not head
        ]
        text = config.get_text_config()
        head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(
            linears=tuple(linears),
            hidden=text.hidden_size,
            vocabulary=text.vocab_size,
            layers=text.num_hidden_layers,
            attention_width=text.num_attention_heads * head_size,
            rank=rank,
        )

    @property
    def body(self) -> int:
        """P, weights of the body's linear layers."""
        return sum(inside * outside for inside, outside in self.linears)

    @property
    def head(self) -> int:
        """H, weights of the head."""
        return self.hidden * self.vocabulary

    @property
    def adapter(self) -> int:
        """R, weights of the adapters."""
        return self.rank * sum(inside + outside for inside, outside in self.linears)


@dataclass(frozen=True, slots=True)
class Work:
    """Operations by where they happen."""

    body: int = 0
    head: int = 0
    attention: int = 0
    adapter: int = 0

    @property
    def total(self) -> int:
        """All operations."""
        return self.body + self.head + self.attention + self.adapter

    def __add__(self, other: Work) -> Work:
        return Work(
            self.body + other.body,
            self.head + other.head,
            self.attention + other.attention,
            self.adapter + other.adapter,
        )


@dataclass(frozen=True, slots=True)
class Document:
    """One sequence of a pass: ``tokens`` in all, ``scored`` of them, the first ``reused`` computed elsewhere."""

    tokens: int
    scored: int
    reused: int = 0


def documents(
    sequences: Sequence[TokenSequence], *, shares: bool, known: Sequence[TokenSequence] = ()
) -> list[Document]:
    """Return the sizes of the sequences of one pass.

    With ``shares`` what they begin with alike is computed once, and what one of the ``known`` begins with not at all.
    """
    if not shares:
        return [Document(len(one.input_ids), len(one.scored)) for one in sequences]
    # Among sorted sequences the longest common beginning is the one with the neighbour.
    ordered = sorted(sequences, key=lambda one: one.input_ids.tolist())
    reused = [0, *(count_common(one.input_ids, other.input_ids) for one, other in pairwise(ordered))]
    return [
        Document(
            len(one.input_ids),
            len(one.scored),
            max(common, *(count_common(one.input_ids, other.input_ids) for other in known), 0),
        )
        for one, common in zip(ordered, reused, strict=True)
    ]


def scored(shape: Shape, scored_documents: Iterable[Document], *, with_adapter: bool) -> Work:
    """Return the work of one pass without gradient: 2P and 2R a token, 2H a scored one, 2 s^2 d of causal attention."""
    total = Work()
    for document in scored_documents:
        tokens = document.tokens - document.reused
        pairs = document.tokens**2 - document.reused**2
        total += Work(
            body=2 * shape.body * tokens,
            head=2 * shape.head * document.scored,
            attention=2 * pairs * shape.attention_width * shape.layers,
            adapter=2 * shape.adapter * tokens if with_adapter else 0,
        )
    return total


def trained(
    shape: Shape, trained_documents: Iterable[Document], *, adapted: float = 1.0, begins_there: bool = False
) -> Work:
    """Return the work of a forward and a backward pass: 4P and 6R a token, 4H a scored one, 6 s^2 d of attention.

    Where only an upper share of the layers is ``adapted``, the backward pass ends there, and the forward pass begins
    there where what leaves the others is known (``begins_there``).

    Every token counts in every layer, as the usual model does, also where an engine could leave some out: the first
    layer's inputs need no gradient, and the last layer's outputs at prompt positions are read by nobody.
    """
    once = scored(shape, trained_documents, with_adapter=True)
    forward = adapted if begins_there else 1.0
    return Work(
        body=round(once.body * (forward + adapted)),
        head=2 * once.head,
        attention=round(once.attention * (forward + 2 * adapted)),
        adapter=round(3 * once.adapter * adapted),
    )

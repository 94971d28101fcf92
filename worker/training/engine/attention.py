"""Document-masked attention for packed rows, registered with transformers from outside: no model is forked.

No mask function is registered under the same name on purpose: transformers then builds no mask and hands models None,
where a registered one would first search position ids for packed documents and read the device to do so.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from worker.training.engine.packing import Layout
    from worker.training.engine.prefix_cache import PrefixCache

PACKED_ATTENTION = "packed_documents"
_UNSUPPORTED = ("s_aux", "position_bias")


@dataclass(frozen=True, slots=True)
class _Pass:
    """Where the documents of a pass lie, which cache keeps its keys and values, and which lends it some."""

    layout: Layout
    into: PrefixCache | None
    behind: PrefixCache | None


_current_pass: ContextVar[_Pass] = ContextVar("current_pass")


@contextmanager
def packed(layout: Layout, *, into: PrefixCache | None = None, behind: PrefixCache | None = None) -> Iterator[None]:
    """Tell the attention layers of the forward pass inside where the documents lie.

    Args:
        layout: Of the row.
        into: Keeps every layer's keys and values.
        behind: Holds those that ``layout`` counts as cached.
    """
    token = _current_pass.set(_Pass(layout, into, behind))
    try:
        yield
    finally:
        _current_pass.reset(token)


def attend_packed(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Return causal attention within each document [1, T, heads, head size] and no weights.

    Where documents share a prefix, in the row or in a cache, the queries behind it see its keys and their own.

    Args:
        module: The attention layer.
        query: [1, heads, T, head size].
        key: [1, key heads, T, head size].
        value: [1, key heads, T, head size].
        attention_mask: Unused, the layout is the mask.
        scaling: Factor on the scores; None is 1 / sqrt(head size).
        dropout: Probability.
        sliding_window: Tokens a token can see, itself included; None sees the document.
        softcap: Bound of the scores, cap * tanh(score / cap) (Gemma 2, https://arxiv.org/abs/2408.00118).
        others: What transformers hands to every attention function.

    Raises:
        NotImplementedError: The model asks for attention sinks or a position bias.
    """
    if any(others.get(name) is not None for name in _UNSUPPORTED):
        raise NotImplementedError(f"packed attention knows none of {_UNSUPPORTED}")
    current = _current_pass.get()
    layout = current.layout
    if current.into is not None:
        current.into.keep(module, key, value)
    if current.behind is not None and layout.shared is not None and layout.shared.cached:
        key, value = current.behind.prepend(module, key, value)
    options = _Options(scaling, dropout, sliding_window, softcap)
    if _fits_varlen(query, value, options):
        return _attend_varlen((query, key, value), layout, options), None
    heads = [tensor.float() if _is_slow(tensor) else tensor for tensor in (query, key, value)]
    outputs = [_attend_segment(*part, options=options) for part in _cut(*heads, layout=layout)]
    return torch.cat(outputs, dim=2).to(query.dtype).transpose(1, 2).contiguous(), None


AttentionInterface.register(PACKED_ATTENTION, attend_packed)


@dataclass(frozen=True, slots=True)
class _Options:
    """What a layer asks for, as in ``attend_packed``."""

    scaling: float | None
    dropout: float
    window: int | None
    softcap: float | None


def _fits_varlen(query: Tensor, value: Tensor, options: _Options) -> bool:
    is_half = query.dtype in {torch.float16, torch.bfloat16}
    is_plain = query.shape[-1] == value.shape[-1] and not options.dropout and options.softcap is None
    return query.is_cuda and is_half and is_plain and _has_flash_kernels(query.device)


def _is_slow(tensor: Tensor) -> bool:
    """Return whether float32 attention would be faster: a CPU's in bfloat16 takes 2.6 times as long at 100 tokens."""
    return tensor.device.type == "cpu" and tensor.dtype != torch.float32


@lru_cache(maxsize=8)
def _has_flash_kernels(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _attend_varlen(heads: tuple[Tensor, Tensor, Tensor], layout: Layout, options: _Options) -> Tensor:
    query, key, value = (tensor[0].transpose(0, 1) for tensor in heads)  # [T, heads, head size]
    shared = layout.shared
    if shared is not None:
        key, value = (tensor.index_select(0, shared.places) for tensor in (key, value))
    # The kernel's causal mask ends at the last key of each segment, also where it has more keys than queries.
    output = varlen_attn(
        query,
        key,
        value,
        layout.boundaries,
        layout.boundaries if shared is None else shared.boundaries,
        layout.longest,
        layout.longest if shared is None else shared.longest,
        scale=options.scaling,
        window_size=(-1 if options.window is None else options.window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return cast("Tensor", output).unsqueeze(0)  # a tuple only where log-sum-exps are asked for


def _cut(query: Tensor, key: Tensor, value: Tensor, *, layout: Layout) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the queries of each segment with the keys and values that they see."""
    queries = torch.split(query, list(layout.lengths), dim=2)
    if layout.shared is None:
        lengths = list(layout.lengths)
        yield from zip(queries, torch.split(key, lengths, dim=2), torch.split(value, lengths, dim=2), strict=True)
        return
    for own, spans in zip(queries, layout.shared.spans, strict=True):
        yield own, _gather(key, spans), _gather(value, spans)


def _gather(tensor: Tensor, spans: Sequence[range]) -> Tensor:
    parts = [tensor[:, :, span.start : span.stop] for span in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _attend_segment(query: Tensor, key: Tensor, value: Tensor, *, options: _Options) -> Tensor:
    """Return causal attention of one segment's queries [1, heads, Q, head size], the last Q of the keys' positions."""
    queries, keys = query.shape[2], key.shape[2]
    window = keys if options.window is None else min(keys, options.window)
    is_whole = window == keys
    shared = query.shape[1] != key.shape[1]
    if options.softcap is None:
        # The function's own causal mask is aligned with the first key, so it fits whole documents alone.
        is_causal = is_whole and queries == keys
        mask = None if is_causal or (is_whole and queries == 1) else _band(queries, keys, window, query.device)
        return scaled_dot_product_attention(
            query, key, value, mask, options.dropout, is_causal=is_causal, scale=options.scaling, enable_gqa=shared
        )
    if shared:
        key, value = (tensor.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for tensor in (key, value))
    scaling = query.shape[-1] ** -0.5 if options.scaling is None else options.scaling
    scores = options.softcap * torch.tanh(query @ key.transpose(2, 3) * scaling / options.softcap)
    scores = scores.masked_fill(~_band(queries, keys, window, query.device), float("-inf"))
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return drop(weights, options.dropout) @ value


@lru_cache(maxsize=64)
def _band(queries: int, keys: int, window: int, device: torch.device) -> Tensor:
    """Return which keys the last ``queries`` tokens see: themselves and the ``window`` - 1 before; bool [Q, K]."""
    # Cached, and shared by passes with and without autograd: must not become an inference tensor.
    with torch.inference_mode(mode=False):
        seen = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
        return seen.triu(keys - queries + 1 - window)

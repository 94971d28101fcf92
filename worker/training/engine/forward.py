"""One forward pass: documents in, log-probabilities of their scored tokens out. The only place that calls the model.

``choose_forward`` probes the model at the start. The fast way packs documents and scores with a frozen linear head; a
model whose attention cannot be told about documents runs one document at a time, and a model whose head is trained, or
is more than the linear layer, scale and cap known here, scores through its own logits with plain autograd.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from worker.training.engine.attention import PACKED_ATTENTION, packed
from worker.training.engine.head import Head, find_head
from worker.training.engine.packing import pack_documents
from worker.training.types import TokenSequence

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from worker.training.engine.packing import Pack

_PACKABLE_LAYERS = {"full_attention", "sliding_attention"}
_PROBE_LENGTHS = (5, 7)
_TOLERANCES = {torch.float32: 1e-4}
_COARSE_TOLERANCE = 5e-2
_PROBE_ERRORS = (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class DocumentScores:
    """Scores of the scored tokens of all documents, in order.

    Attributes:
        logprobs: float32 [N].
        hits: bool [N], the token was the likeliest.
        hidden: [N, D] final hidden states at the predicting positions.
    """

    logprobs: Tensor
    hits: Tensor
    hidden: Tensor


@dataclass(frozen=True, slots=True)
class Forward:
    """How to run ``model``: ``packs`` documents or one at a time, ``head`` or (None) the model's own logits."""

    model: PreTrainedModel
    packs: bool
    head: Head | None

    @contextmanager
    def attention(self) -> Iterator[None]:
        """Switch the model to packed attention inside, back to its own (for generation) outside.

        Raises:
            NotImplementedError: The model has attention of its own that does not go through the registry.
        """
        own = self.model.config._attn_implementation
        if self.packs:
            self.model.set_attn_implementation(PACKED_ATTENTION)
            if self.model.config._attn_implementation != PACKED_ATTENTION:
                raise NotImplementedError("the model's attention cannot be replaced")
        try:
            yield
        finally:
            if self.packs:
                self.model.set_attn_implementation(own)

    def score(self, documents: Sequence[TokenSequence]) -> DocumentScores:
        """Return the scores of ``documents`` (at least one), with gradient where autograd is on."""
        groups = [documents] if self.packs else [[document] for document in documents]
        parts = [self._score_pack(pack_documents(group, self.model.device)) for group in groups]
        if len(parts) == 1:
            return parts[0]
        columns = zip(*((part.logprobs, part.hits, part.hidden) for part in parts), strict=True)
        return DocumentScores(*(torch.cat(column) for column in columns))

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``, a function of log-probabilities from ``score``, to the adapter's."""
        torch.autograd.backward(loss)

    def _score_pack(self, pack: Pack) -> DocumentScores:
        inputs: dict[str, Any] = {"input_ids": pack.input_ids, "use_cache": False}
        if self.packs:
            inputs["position_ids"] = pack.position_ids
        with packed(pack.layout):
            if self.head is not None:
                hidden = self.model.base_model(**inputs).last_hidden_state[0, pack.predicting]
                logprobs, hits = self.head.score(hidden, pack.targets)
                return DocumentScores(logprobs, hits, hidden)
            return self._score_with_own_logits(inputs, pack)

    def _score_with_own_logits(self, inputs: dict[str, Any], pack: Pack) -> DocumentScores:
        selects = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        kept = {"logits_to_keep": pack.predicting} if selects else {}
        output = self.model(**inputs, **kept, output_hidden_states=True)
        logits = (output.logits[0] if selects else output.logits[0, pack.predicting]).float()
        logprobs = logits.log_softmax(dim=1).gather(1, pack.targets[:, None]).squeeze(1)
        hits = logits.argmax(dim=1) == pack.targets
        return DocumentScores(logprobs, hits, output.hidden_states[-1][0, pack.predicting])


def choose_forward(model: PreTrainedModel) -> Forward:
    """Return the fastest way to run ``model`` that agrees with its own logits on a probe."""
    plain = Forward(model, packs=False, head=None)
    documents = _probe_documents(model)
    with torch.inference_mode():
        expected = plain.score(documents).logprobs
        chosen = plain
        for head, packs in ((find_head(model), False), (None, True)):
            candidate = replace(chosen, head=head or chosen.head, packs=packs or chosen.packs)
            if candidate != chosen and _agrees(candidate, documents, expected):
                chosen = candidate
    return chosen


def _probe_documents(model: PreTrainedModel) -> list[TokenSequence]:
    vocabulary = model.config.get_text_config().vocab_size
    ids = np.random.default_rng(0).integers(vocabulary, size=sum(_PROBE_LENGTHS)).astype(np.int32)
    documents = np.split(ids, np.cumsum(_PROBE_LENGTHS)[:-1])
    return [TokenSequence(part, np.arange(1, len(part), dtype=np.int32)) for part in documents]


def _agrees(candidate: Forward, documents: Sequence[TokenSequence], expected: Tensor) -> bool:
    layers = getattr(candidate.model.config.get_text_config(), "layer_types", None) or ["full_attention"]
    if candidate.packs and not _PACKABLE_LAYERS.issuperset(layers):
        return False
    tolerance = _TOLERANCES.get(candidate.model.dtype, _COARSE_TOLERANCE)
    try:
        with candidate.attention():
            logprobs = candidate.score(documents).logprobs
            changed = candidate.score([_reversed(documents[0]), *documents[1:]]).logprobs
    except _PROBE_ERRORS:
        return False
    # Equal to the last bit, since the shapes are: in a random model a leak between documents is tiny.
    later = slice(len(documents[0].scored), None)
    is_apart = torch.equal(logprobs[later], changed[later])
    return is_apart and torch.allclose(logprobs, expected, rtol=tolerance, atol=tolerance)


def _reversed(document: TokenSequence) -> TokenSequence:
    return TokenSequence(document.input_ids[::-1].copy(), document.scored)

"""One forward pass: documents in, log-probabilities of their scored tokens out. The only place that calls the model.

The fast way packs documents, computes prefixes that they share once, and scores with a frozen linear head. A model
whose attention cannot be told about documents runs one document at a time, and a model whose head is trained, or is
more than the linear layer, scale and cap known here, scores through its own logits with plain autograd. ``probe``
chooses.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from worker.training.engine.attention import PACKED_ATTENTION, packed
from worker.training.engine.last_layer import narrowed, reading
from worker.training.engine.packing import pack_documents

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from worker.training.engine.head import Head
    from worker.training.engine.packing import Pack
    from worker.training.engine.prefix_cache import PrefixCache
    from worker.training.types import TokenSequence


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
    """How to run a model.

    Attributes:
        model: The base model, with or without adapter layers.
        packs: Several documents run at a time; else one by one.
        head: None scores through the model's own logits.
        narrows: Of the last layer is computed what is read; needs ``head``.
        shares: In a pack, what documents begin with alike is computed once; needs ``packs``.
        lends: Keys and values of one pass serve others over documents that begin alike; needs ``shares``.
        limitations: What keeps the model from the fastest way, each a sentence.
    """

    model: PreTrainedModel
    packs: bool
    head: Head | None
    narrows: bool = False
    shares: bool = False
    lends: bool = False
    limitations: tuple[str, ...] = ()

    @contextmanager
    def attention(self) -> Iterator[None]:
        """Switch the model to the fast way inside, back to its own (for generation) outside.

        Raises:
            NotImplementedError: The model has attention of its own that does not go through the registry.
        """
        own = self.model.config._attn_implementation
        if self.packs:
            self.model.set_attn_implementation(PACKED_ATTENTION)
            if self.model.config._attn_implementation != PACKED_ATTENTION:
                raise NotImplementedError("the model's attention cannot be replaced")
        try:
            with narrowed(self.model) if self.narrows else nullcontext():
                yield
        finally:
            if self.packs:
                self.model.set_attn_implementation(own)

    def score(
        self,
        documents: Sequence[TokenSequence],
        *,
        into: PrefixCache | None = None,
        behind: PrefixCache | None = None,
    ) -> DocumentScores:
        """Return the scores of ``documents`` (at least one), with gradient where autograd is on.

        Args:
            documents: What to score.
            into: Is filled with the keys and values of all layers; only where this ``lends``.
            behind: What documents begin with like those in it is not computed again; only where this ``lends``.
        """
        device = self.model.device
        if self.packs:
            pack = pack_documents(documents, device, shares=self.shares, behind=behind)
            scores = self.score_pack(pack, into=into, behind=behind)
            if into is not None:
                into.complete(documents, pack)
            return scores
        parts = [self.score_pack(pack_documents([document], device)) for document in documents]
        columns = zip(*((part.logprobs, part.hits, part.hidden) for part in parts), strict=True)
        return DocumentScores(*(torch.cat(column) for column in columns))

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``, a function of log-probabilities from ``score``, to the adapter's."""
        torch.autograd.backward(loss)

    def score_pack(
        self, pack: Pack, *, into: PrefixCache | None = None, behind: PrefixCache | None = None
    ) -> DocumentScores:
        """Return the scores of the documents of ``pack``: of one only, where this does not pack."""
        inputs: dict[str, Any] = {"input_ids": pack.input_ids, "use_cache": False}
        if self.packs:
            inputs["position_ids"] = pack.position_ids
        read = reading(pack.read, pack.input_ids.shape[1]) if self.narrows else nullcontext()
        with packed(pack.layout, into=into, behind=behind), read:
            if self.head is not None:
                hidden = self.model.base_model(**inputs).last_hidden_state[0, pack.predicting]
                logprobs, hits = self.head.score(hidden, pack.targets)
                return DocumentScores(logprobs, hits, hidden)
            return self._score_with_own_logits(inputs, pack)

    def _score_with_own_logits(self, inputs: dict[str, Any], pack: Pack) -> DocumentScores:
        selects = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        kept = {"logits_to_keep": pack.predicting} if selects else {}
        with _final_hidden_states_of(self.model) as hidden:
            output = self.model(**inputs, **kept)
        logits = (output.logits[0] if selects else output.logits[0, pack.predicting]).float()
        logprobs = logits.log_softmax(dim=1).gather(1, pack.targets[:, None]).squeeze(1)
        hits = logits.argmax(dim=1) == pack.targets
        return DocumentScores(logprobs, hits, hidden[-1][0, pack.predicting])


@contextmanager
def _final_hidden_states_of(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Yield a list that receives the final hidden states [1, T, D] of each forward pass inside."""
    found: list[Tensor] = []
    # Not `output_hidden_states`: it keeps those of all layers, and transformers knows sharded models by other names.
    handle = model.base_model.register_forward_hook(lambda _module, _inputs, output: found.append(output[0]))
    try:
        yield found
    finally:
        handle.remove()

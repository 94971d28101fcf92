"""One forward pass: documents in, log-probabilities of their scored tokens out. The only place that calls the model.

The fast way packs documents, computes prefixes that they share once, and scores with a frozen linear head; layers below
the adapter can be passed over where what leaves them is kept. A model whose attention cannot be told about documents
runs one document at a time, and a model whose head is trained, or is more than the linear layer, scale and cap known
here, scores through its own logits with plain autograd. ``probe`` chooses.
"""

from __future__ import annotations

import inspect
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from worker.training.engine.attention import PACKED_ATTENTION, packed
from worker.training.engine.last_layer import narrowed, reading
from worker.training.engine.packing import pack_documents
from worker.training.engine.transfer import to_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from worker.training.engine.frozen_layers import FrozenLayers
    from worker.training.engine.head import Head
    from worker.training.engine.hidden_cache import HiddenStateCache
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
        frozen: Layers whose hidden states can be kept from pass to pass; None: all layers run in every pass.
        limitations: What keeps the model from the fastest way, each a sentence.
    """

    model: PreTrainedModel
    packs: bool
    head: Head | None
    narrows: bool = False
    shares: bool = False
    lends: bool = False
    frozen: FrozenLayers | None = None
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
            with ExitStack() as stack:
                if self.narrows:
                    stack.enter_context(narrowed(self.model))
                if self.frozen is not None:
                    stack.enter_context(self.frozen.switchable())
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
        known: HiddenStateCache | None = None,
    ) -> DocumentScores:
        """Return the scores of ``documents`` (at least one), with gradient where autograd is on.

        Args:
            documents: What to score.
            into: Is filled with the keys and values of all layers; only where this ``lends``.
            behind: What documents begin with like those in it is not computed again; only where this ``lends``.
            known: Holds, or is given, what leaves the ``frozen`` layers; only where there are any.
        """
        device = self.model.device
        if self.packs:
            pack = pack_documents(documents, device, shares=self.shares, behind=behind)
            scores = self.score_pack(pack, into=into, behind=behind, entering=self._enter(documents, pack, known))
            if into is not None:
                into.complete(documents, pack)
            return scores
        singles = [(document, pack_documents([document], device)) for document in documents]
        parts = [self.score_pack(pack, entering=self._enter([document], pack, known)) for document, pack in singles]
        columns = zip(*((part.logprobs, part.hits, part.hidden) for part in parts), strict=True)
        return DocumentScores(*(torch.cat(column) for column in columns))

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``, a function of log-probabilities from ``score``, to the adapter's."""
        torch.autograd.backward(loss)

    def score_pack(
        self,
        pack: Pack,
        *,
        into: PrefixCache | None = None,
        behind: PrefixCache | None = None,
        entering: Tensor | None = None,
    ) -> DocumentScores:
        """Return the scores of the documents of ``pack``: of one only, where this does not pack.

        Args:
            pack: What to score.
            into: As in ``score``.
            behind: As in ``score``.
            entering: What leaves the ``frozen`` layers [1, T, D], which are then not run.
        """
        inputs = self._inputs(pack)
        over = nullcontext() if self.frozen is None or entering is None else self.frozen.passed_over(entering)
        read = reading(pack.read, pack.input_ids.shape[1]) if self.narrows else nullcontext()
        with packed(pack.layout, into=into, behind=behind), over, read:
            if self.head is not None:
                hidden = self.model.base_model(**inputs).last_hidden_state[0, pack.predicting]
                logprobs, hits = self.head.score(hidden, pack.targets)
                return DocumentScores(logprobs, hits, hidden)
            return self._score_with_own_logits(inputs, pack)

    def _inputs(self, pack: Pack) -> dict[str, Any]:
        inputs: dict[str, Any] = {"input_ids": pack.input_ids, "use_cache": False}
        if self.packs:
            inputs["position_ids"] = pack.position_ids
        return inputs

    def _enter(self, documents: Sequence[TokenSequence], pack: Pack, known: HiddenStateCache | None) -> Tensor | None:
        """Return what leaves the frozen layers over ``pack`` [1, T, D]; None: they are to run as the others do."""
        if known is None or self.frozen is None:
            return None
        found = [known.find(document, partial(self._run_frozen, self.frozen)) for document in documents]
        entering = found[0].new_empty((1, pack.input_ids.shape[1], found[0].shape[1]), device=self.model.device)
        for own, places in zip(found, pack.places, strict=True):
            # Of a text that goes on behind a prefix cache, only the rest lies in the pack.
            rest = own[len(own) - len(places) :].to(entering.device)
            entering[0].index_copy_(0, to_device(places, entering.device), rest)
        return entering

    def _run_frozen(self, frozen: FrozenLayers, document: TokenSequence) -> Tensor:
        """Return what leaves the ``frozen`` layers where ``document`` runs by itself [T, D]."""
        pack = pack_documents([document], self.model.device)
        with torch.inference_mode(), packed(pack.layout):
            return frozen.run(lambda: self.model.base_model(**self._inputs(pack)))[0]

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

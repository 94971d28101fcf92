"""Runs a method's scoring passes over rendered rows: which documents, with or without gradient, adapter and cache."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from worker.training.engine.cache_filling import CacheFill, CacheFiller
from worker.training.engine.forward import DocumentScores
from worker.training.engine.memory import MemoryLadder
from worker.training.engine.prefix_cache import PrefixCache
from worker.training.engine.prefixes import group_by_prefix
from worker.training.engine.prepared import PreparedExample, group_examples
from worker.training.engine.probe import choose_forward, describe_uncached
from worker.training.engine.transfer import to_device
from worker.training.types import ScoredBatch, TokenScores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

    from worker.training.engine.forward import Forward
    from worker.training.engine.hidden_cache import HiddenStateCache
    from worker.training.engine.score_cache import ScoreStore
    from worker.training.types import ScoringPass, TokenSequence


class Scorer:
    """Scores rows with one adapted model.

    Args:
        adapted: The model with its adapter, in eval mode.
        micro_batch_tokens: Most tokens of one forward pass to begin with; ``memory`` lowers it where it must.
        forward: How to run the model; None: the fastest way that a probe finds.
        shares_prefixes: That way may compute what documents of a pass begin with alike once.
        passes: Of a training step; where one can serve another with what it has computed, that is tried as well.
        hidden_states: Is to keep what leaves the frozen layers below the adapter; None: they run in every pass.
    """

    def __init__(
        self,
        adapted: PeftModel,
        *,
        micro_batch_tokens: int,
        forward: Forward | None = None,
        shares_prefixes: bool = True,
        passes: Sequence[ScoringPass] = (),
        hidden_states: HiddenStateCache | None = None,
    ) -> None:
        self.memory = MemoryLadder(adapted, micro_batch_tokens)
        self._adapted = adapted
        self._adapter_layers = [module for module in adapted.modules() if isinstance(module, BaseTunerLayer)]
        # Only the adapter's own dropout is ever active: a frozen base keeps computing what it was trained to compute.
        self._dropouts = [
            module
            for name, module in adapted.named_modules()
            if isinstance(module, nn.Dropout) and "lora_dropout" in name
        ]
        base = cast("PreTrainedModel", adapted.get_base_model())
        # With dropout the pass with gradient computes other keys and values than scoring does.
        borrows = _can_borrow(passes)
        lends, caches = borrows and not self._dropouts, hidden_states is not None
        self._forward = forward or choose_forward(base, shares=shares_prefixes, lends=lends, caches=caches)
        self._hidden_states = None if self._forward.frozen is None else hidden_states
        self._limitations = [_APART] if borrows and self._dropouts else []
        if caches and forward is not None:
            self._limitations.append(describe_uncached("runs that share a base model compute them together"))

    @property
    def limitations(self) -> tuple[str, ...]:
        """What keeps base model and adapter from the fastest way, each a sentence."""
        return (*self._forward.limitations, *self._limitations)

    @property
    def hidden_state_bytes(self) -> int:
        """What is kept now of hidden states that leave the frozen layers."""
        return 0 if self._hidden_states is None else self._hidden_states.kept_bytes

    def attention(self) -> AbstractContextManager[None]:
        """Return the context in which to score; outside of it the model's attention is as it was loaded."""
        return self._forward.attention()

    def score(
        self, examples: Sequence[PreparedExample], passes: Sequence[ScoringPass]
    ) -> tuple[ScoredBatch, Mapping[str, Tensor]]:
        """Return the scores of ``passes`` and, by name of the passes that were run, the hits, bool [N]."""
        scores: dict[str, TokenScores] = {p.name: self._recall(examples, p) for p in passes if p.cached}
        hits: dict[str, Tensor] = {}
        to_run = [p for p in passes if not p.cached]
        cache = self._make_cache(passes)
        for _, group in groupby(sorted(to_run, key=_turn(lends=cache is not None)), key=_kind):
            found, found_hits = self._run(examples, tuple(group), cache)
            scores |= found
            hits |= found_hits
        names = examples[0].rendered.values.keys()
        values = {name: self._place([example.rendered.values[name] for example in examples]) for name in names}
        return ScoredBatch(scores, values), hits

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``, a function of scores from ``score``, to the adapter's."""
        self._forward.backward(loss)

    def measure(self, examples: Sequence[PreparedExample], passes: Sequence[ScoringPass]) -> ScoredBatch:
        """Return the scores of ``passes``, none of which carries gradient.

        Raises:
            DeviceOutOfMemoryError: A single example does not fit the device.
        """
        documents = [one for p in passes for one in _select(examples, p) if one is not None]
        sizes = [len(document.input_ids) for document in documents]
        return self.memory.fit(
            lambda: self.score(examples, passes)[0], sizes, lambda: self.group(documents), lambda: None
        )

    def group(self, documents: Sequence[TokenSequence], behind: PrefixCache | None = None) -> list[list[int]]:
        """Return indices of ``documents`` in micro-batches, those that can share their beginning together.

        What they begin with like a document in ``behind`` takes no room.
        """
        ids, known = (
            [document.input_ids for document in own] for own in (documents, () if behind is None else behind.documents)
        )
        return group_by_prefix(ids, self.memory.micro_batch_tokens, shares=self._forward.shares, known=known)

    def group_examples(self, examples: Sequence[PreparedExample], passes: Sequence[ScoringPass]) -> list[list[int]]:
        """Return indices of ``examples`` in micro-batches for ``passes``, which run together and keep activations."""
        return group_examples(examples, passes, self.memory.micro_batch_tokens, shares=self._forward.shares)

    def fill_cache(
        self,
        examples: Sequence[PreparedExample],
        passes: Sequence[ScoringPass],
        report: Callable[[int, int], None],
        store: ScoreStore | None = None,
    ) -> CacheFill:
        """Score the cached ``passes``, all of one kind, of ``examples`` as far as these lack them.

        Args:
            examples: Receive the scores.
            passes: Those that are not cached are left out.
            report: Takes the texts done and in all, between micro-batches.
            store: Is asked first and told what was scored; only for scores of the bare base model.

        Raises:
            DeviceOutOfMemoryError: A single text does not fit the device.
        """
        cached = [scoring_pass for scoring_pass in passes if scoring_pass.cached]
        return CacheFiller(self, examples, cached, store).fill(report) if cached else CacheFill(0, 0)

    def score_texts(self, texts: Sequence[TokenSequence], kind: ScoringPass) -> list[NDArray[np.float32]]:
        """Return the log-probabilities, float32 [n], of each of ``texts``, as a pass of this kind without gradient."""
        found = self._score_documents(texts, kind)
        logprobs = self._place([]) if found is None else found.logprobs
        return np.split(logprobs.cpu().numpy(), np.cumsum([len(text.scored) for text in texts])[:-1])

    def _make_cache(self, passes: Sequence[ScoringPass]) -> PrefixCache | None:
        """Return what the pass with gradient among ``passes`` is to fill for others; None: each goes by itself."""
        # A checkpointed layer is there to keep nothing, and computes its keys and values again backward.
        can_lend = self._forward.lends and self.memory.rung.checkpointed_layers == 0
        return PrefixCache() if can_lend and _can_borrow(passes) else None

    def _run(
        self, examples: Sequence[PreparedExample], passes: Sequence[ScoringPass], cache: PrefixCache | None
    ) -> tuple[dict[str, TokenScores], dict[str, Tensor]]:
        """Return scores and hits of ``passes``, all of one kind, by name."""
        scores: dict[str, TokenScores] = {}
        hits: dict[str, Tensor] = {}
        sequences = [_select(examples, scoring_pass) for scoring_pass in passes]
        documents = [sequence for selected in sequences for sequence in selected if sequence is not None]
        found = self._score_documents(documents, passes[0], cache)
        start = 0
        for scoring_pass, selected in zip(passes, sequences, strict=True):
            lengths = [0 if sequence is None else len(sequence.scored) for sequence in selected]
            own = slice(start, start + sum(lengths))
            start = own.stop
            hidden = found.hidden[own].detach().float() if found is not None and scoring_pass.with_hidden else None
            logprobs = self._place([]) if found is None else found.logprobs[own]
            scores[scoring_pass.name] = self._assemble(logprobs, lengths, hidden)
            hits[scoring_pass.name] = logprobs.new_zeros(0, dtype=torch.bool) if found is None else found.hits[own]
        return scores, hits

    def _score_documents(
        self, documents: Sequence[TokenSequence], kind: ScoringPass, cache: PrefixCache | None = None
    ) -> DocumentScores | None:
        if not documents:
            return None
        # What is scored once and for all would only take the room of what comes again.
        known = None if kind.cached and not kind.renewed else self._hidden_states
        score = partial(self._forward.score, known=known)
        with nullcontext() if kind.with_adapter else self._bare_base():
            if kind.with_grad:
                with self._adapter_dropout():
                    return score(documents, into=cache)
            behind = cache if kind.with_adapter else None
            groups = self.group(documents, behind)
            with torch.inference_mode():
                parts = [score([documents[index] for index in group], behind=behind) for group in groups]
        return _in_order(documents, groups, parts)

    @contextmanager
    def _bare_base(self) -> Iterator[None]:
        # What PEFT's own `disable_adapter` does to each layer, without its survey of the whole model every time.
        for layer in self._adapter_layers:
            layer.enable_adapters(enabled=False)
        try:
            yield
        finally:
            for layer in self._adapter_layers:
                layer.enable_adapters(enabled=True)

    @contextmanager
    def _adapter_dropout(self) -> Iterator[None]:
        for dropout in self._dropouts:
            dropout.train()
        try:
            yield
        finally:
            for dropout in self._dropouts:
                dropout.eval()

    def _recall(self, examples: Sequence[PreparedExample], scoring_pass: ScoringPass) -> TokenScores:
        arrays = [example.cached.get(scoring_pass.name, _NOTHING) for example in examples]
        return self._assemble(self._place(np.concatenate(arrays)), [len(array) for array in arrays], None)

    def _assemble(self, logprobs: Tensor, lengths: Sequence[int], hidden: Tensor | None) -> TokenScores:
        example = np.repeat(np.arange(len(lengths)), lengths)
        return TokenScores(logprobs, self._place(example, torch.int64), self._place(lengths, torch.int64), hidden)

    def _place(self, values: Sequence[float] | NDArray[np.generic], dtype: torch.dtype = torch.float32) -> Tensor:
        return to_device(np.asarray(values), self._adapted.device, dtype)


def _in_order(
    documents: Sequence[TokenSequence], groups: Sequence[Sequence[int]], parts: Sequence[DocumentScores]
) -> DocumentScores:
    """Return the scores of ``documents`` from those of its ``groups``, as copies that autograd can work with."""
    order = [index for group in groups for index in group]
    lengths = [len(documents[index].scored) for index in order]

    def sort(column: Sequence[Tensor]) -> Tensor:
        pieces = torch.split(torch.cat(list(column)), lengths)
        return torch.cat([pieces[place] for place in np.argsort(order)])

    return DocumentScores(
        sort([part.logprobs for part in parts]),
        sort([part.hits for part in parts]),
        sort([part.hidden for part in parts]),
    )


_APART = (
    "With dropout on the adapter, scoring cannot go on from what training has computed of a prompt: "
    "expect slower online scoring."
)
_NOTHING = np.zeros(0, dtype=np.float32)


def _kind(scoring_pass: ScoringPass) -> tuple[bool, bool]:
    """Passes of one kind run in the same forward pass."""
    return scoring_pass.with_adapter, scoring_pass.with_grad


def _can_borrow(passes: Sequence[ScoringPass]) -> bool:
    """Return whether one of ``passes`` scores, beside one with gradient, with the very same weights."""
    kinds = {_kind(scoring_pass) for scoring_pass in passes if not scoring_pass.cached}
    return {(True, False), (True, True)} <= kinds


def _turn(*, lends: bool) -> Callable[[ScoringPass], tuple[bool, bool]]:
    """Return what to sort passes by: those of the bare base first, since toggling adapters cuts a graph off them.

    What ``lends`` comes before what borrows; else the pass with gradient is last, so that its graph waits for nothing.
    """
    return lambda scoring_pass: (scoring_pass.with_adapter, scoring_pass.with_grad is not lends)


def _select(examples: Sequence[PreparedExample], scoring_pass: ScoringPass) -> list[TokenSequence | None]:
    return [example.rendered.sequences.get(scoring_pass.sequence) for example in examples]

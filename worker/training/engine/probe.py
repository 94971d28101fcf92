"""Finds the fastest forward pass that is right for a model, by trying it first, and says why a faster one is not.

Two questions are asked of every candidate. Does it agree with the model's own logits, within rounding? And does a
document depend on its own tokens alone? The second one is answered by a derivative: the gradient of a document's
log-probabilities by the input embeddings of all other tokens must be zero. A leak gives another value however small it
is, and rounding, which moves values and no dependencies, cannot.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from worker.training.engine.forward import Forward
from worker.training.engine.frozen_layers import FrozenLayers
from worker.training.engine.head import find_head
from worker.training.engine.hidden_cache import HiddenStateCache
from worker.training.engine.last_layer import find_narrowable
from worker.training.engine.packing import pack_documents
from worker.training.engine.prefix_cache import PrefixCache
from worker.training.engine.prefixes import LEAST_SHARED
from worker.training.types import TokenSequence

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from worker.training.engine.packing import Pack

_PACKABLE_LAYERS = {"full_attention", "sliding_attention"}
_PREFIX_LENGTH = LEAST_SHARED + 1
_BRANCH_LENGTHS = (5, 7)
_TOLERANCES = {torch.float32: 1e-4}
_COARSE_TOLERANCE = 5e-2
_PROBED_BYTES = 2**24
_PROBE_ERRORS = (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError)


class _Unfit(Exception):  # noqa: N818 - a finding, not an error
    """A candidate is not right for the model, for the reason in the message."""


@dataclass(frozen=True, slots=True)
class _Probe:
    """What a candidate is asked for.

    Attributes:
        own: Scores through the model's own logits.
        documents: Two, with a common prefix.
        expected: Log-probabilities of their scored tokens by ``own`` [N].
        first: Documents of an earlier pass whose keys and values the candidate goes on from.
    """

    own: Forward
    documents: Sequence[TokenSequence]
    expected: Tensor
    first: Sequence[TokenSequence] = ()

    @classmethod
    def of(cls, model: PreTrainedModel) -> _Probe:
        own = Forward(model, packs=False, head=None)
        documents = _probe_documents(model)
        with torch.no_grad():
            return cls(own, documents, own.score(documents).logprobs)

    def behind(self) -> _Probe:
        """Return the probe of what goes on behind the first document, so that nothing of their prefix is asked for."""
        late = [document.scored > _PREFIX_LENGTH for document in self.documents]
        documents = [
            TokenSequence(document.input_ids, document.scored[kept])
            for document, kept in zip(self.documents, late, strict=True)
        ]
        expected = self.expected[torch.from_numpy(np.concatenate(late)).to(self.expected.device)]
        return replace(self, documents=documents, expected=expected, first=documents[:1])


def choose_forward(
    model: PreTrainedModel, *, shares: bool = True, lends: bool = False, caches: bool = False
) -> Forward:
    """Return the fastest way to run ``model`` that agrees with its own logits on a probe, and why it is no faster.

    Args:
        model: In eval mode.
        shares: Also try to compute common prefixes once.
        lends: Try to take what later passes have in common with an earlier one from that, too.
        caches: Try to pass over the layers below the lowest trained one where what leaves them is kept.
    """
    probe = _Probe.of(model)
    chosen, limitations = _find_packed(probe) or _find_step_by_step(probe)
    # Apart from the rest, for packs in which nothing is shared take another way through attention.
    if chosen.packs and shares:
        chosen, reason = _try(replace(chosen, shares=True), chosen, probe)
        if not chosen.shares:
            limitations.append(
                f"Prompts that begin alike cannot share their computation on this base model ({reason}): "
                "expect slower scoring."
            )
    if chosen.shares and lends:
        chosen, reason = _try(replace(chosen, lends=True), chosen, probe.behind())
        if not chosen.lends:
            limitations.append(
                f"What training computes of a prompt cannot serve scoring on this base model ({reason}): "
                "expect slower online scoring."
            )
    if caches:
        chosen, reason = _try_frozen(chosen, probe)
        if chosen.frozen is None:
            limitations.append(describe_uncached(reason))
    return replace(chosen, limitations=tuple(limitations))


def describe_uncached(reason: str) -> str:
    """Return the sentence that says why hidden states are not kept."""
    return f"Hidden states of frozen layers are not kept from epoch to epoch ({reason}): expect slower training."


def _find_packed(probe: _Probe) -> tuple[Forward, list[str]] | None:
    """Return the fast way at one go, None where something about it is not right for the model."""
    head = find_head(probe.own.model)
    if head is None:
        return None
    fast = replace(probe.own, packs=True, head=head, narrows=bool(find_narrowable(probe.own.model)))
    chosen, _ = _try(fast, probe.own, probe)
    return (chosen, []) if chosen is fast else None


def _find_step_by_step(probe: _Probe) -> tuple[Forward, list[str]]:
    """Return what of the fast way is right for the model, and why the rest is not."""
    chosen = probe.own
    limitations = []
    head = find_head(chosen.model)
    if head is not None:
        narrow = replace(chosen, head=head, narrows=bool(find_narrowable(chosen.model)))
        chosen, reason = _try(narrow, chosen, probe)
        if chosen.head is None and narrow.narrows:
            chosen, reason = _try(replace(narrow, narrows=False), chosen, probe)
    if chosen.head is None:
        detail = "it is trained or no plain linear layer" if head is None else reason
        limitations.append(f"The base model's head is not scored the fast way ({detail}): expect more memory use.")
    chosen, reason = _try(replace(chosen, packs=True), chosen, probe)
    if not chosen.packs:
        limitations.append(
            f"The base model's rows cannot be packed ({reason}), so they run one at a time: expect slower training."
        )
    return chosen, limitations


def _try_frozen(chosen: Forward, probe: _Probe) -> tuple[Forward, str]:
    """Return ``chosen`` with the frozen layers that it can pass over; as it is where there are none, and why."""
    try:
        frozen = FrozenLayers.of(chosen.model)
    except NotImplementedError as error:
        return chosen, str(error)
    return _try(replace(chosen, frozen=frozen), chosen, probe)


def _probe_documents(model: PreTrainedModel) -> list[TokenSequence]:
    """Return two documents with a common prefix, every other token scored: the last layer can leave out the rest."""
    vocabulary = model.config.get_text_config().vocab_size
    generator = np.random.default_rng(0)
    prefix, *branches = (
        generator.integers(vocabulary, size=length).astype(np.int32) for length in (_PREFIX_LENGTH, *_BRANCH_LENGTHS)
    )
    ids = [np.concatenate([prefix, branch]) for branch in branches]
    return [TokenSequence(own, np.arange(1, len(own), 2, dtype=np.int32)) for own in ids]


def _try(candidate: Forward, otherwise: Forward, probe: _Probe) -> tuple[Forward, str]:
    """Return ``candidate`` where it is right; else ``otherwise``, and why."""
    try:
        with candidate.attention():
            if candidate.packs and candidate.frozen is None:
                logprobs = _check_apart(candidate, probe)
            else:
                # No document can depend on another below, where each runs by itself; above, that has been checked.
                known = None if candidate.frozen is None else HiddenStateCache(_PROBED_BYTES)
                with torch.no_grad():
                    logprobs = candidate.score(probe.documents, known=known).logprobs
        _check_close(logprobs, probe.expected, _TOLERANCES.get(candidate.model.dtype, _COARSE_TOLERANCE))
    except _Unfit as unfit:
        return otherwise, str(unfit)
    except _PROBE_ERRORS as error:
        return otherwise, f"{type(error).__name__}: {error}"
    return candidate, ""


def _check_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance):
        apart = float((found - expected).abs().max())
        msg = f"log-probabilities are up to {apart:.2g} from those of the model's own logits"
        raise _Unfit(msg)


def _check_apart(candidate: Forward, probe: _Probe) -> Tensor:
    """Return the log-probabilities of the documents [N]; none may depend on what only others hold.

    Raises:
        _Unfit: One does, or it cannot be told.
    """
    layers = getattr(candidate.model.config.get_text_config(), "layer_types", None) or ["full_attention"]
    if not _PACKABLE_LAYERS.issuperset(layers):
        raise _Unfit(f"it has layers of the kinds {', '.join(sorted(set(layers) - _PACKABLE_LAYERS))}")
    cache = PrefixCache() if probe.first else None
    if cache is not None:
        with torch.no_grad():
            candidate.score(probe.first, into=cache)
    pack = pack_documents(probe.documents, candidate.model.device, shares=candidate.shares, behind=cache)
    with torch.enable_grad(), _embeddings_of(candidate.model) as embeddings:
        logprobs = candidate.score_pack(pack, behind=cache).logprobs
        scores = torch.split(logprobs, [len(document.scored) for document in probe.documents])
        for own, places in zip(scores, pack.places, strict=True):
            _check_dependence(own, embeddings, places, pack)
    return logprobs.detach()


def _check_dependence(own: Tensor, embeddings: Sequence[Tensor], places: np.ndarray[Any, Any], pack: Pack) -> None:
    if len(embeddings) != 1 or embeddings[0].shape[:-1] != pack.input_ids.shape:
        raise _Unfit("its input embeddings cannot be followed")
    (gradient,) = torch.autograd.grad(own.sum(), embeddings[0], retain_graph=True, allow_unused=True)
    reach = None if gradient is None else gradient[0].float().abs().amax(dim=-1)  # [T]
    inside = torch.zeros(pack.input_ids.shape[1], dtype=torch.bool, device=own.device)
    inside[torch.from_numpy(places).to(own.device)] = True
    # Not "equal to zero", so that NaN is found, too.
    if reach is None or not bool((reach[inside] > 0).any()):
        raise _Unfit("its scores do not follow from its input embeddings")
    if not bool((reach[~inside] == 0).all()):
        leak = float(reach[~inside].max())
        raise _Unfit(f"a document depends on its neighbour's tokens, by a gradient of up to {leak:.2g}")


@contextmanager
def _embeddings_of(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Yield a list that receives the input embeddings [1, T, D] of each forward pass inside, as leaves of the graph."""
    found: list[Tensor] = []

    def follow(_module: object, _inputs: object, output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        found.append(leaf)
        return leaf.clone()  # models may scale embeddings in place

    handle = model.get_input_embeddings().register_forward_hook(follow)
    try:
        yield found
    finally:
        handle.remove()

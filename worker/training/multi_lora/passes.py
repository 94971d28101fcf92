"""A forward pass over the documents of several runs, and its backward pass once all have delivered their gradients."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from worker.training.engine.forward import DocumentScores
from worker.training.engine.packing import pack_documents
from worker.training.model.lora import find_peculiarity
from worker.training.multi_lora.linear import Segment, segmented
from worker.training.multi_lora.packs import join_packs

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from peft import PeftModel
    from torch import Tensor

    from worker.training.engine.forward import Forward
    from worker.training.engine.runtime import RandomState
    from worker.training.multi_lora.turns import Seat
    from worker.training.types import TokenSequence


@dataclass(eq=False, slots=True)
class Tenant:
    """One run as the passes see it.

    Attributes:
        seat: Of its thread.
        forward: Runs its own model, alone.
        layers: Its adapted layers by name.
        parameters: Its trained weights.
        obstacle: Why its passes cannot be shared; None: they can.
    """

    seat: Seat
    forward: Forward
    layers: Mapping[str, LoraLinear]
    parameters: Sequence[nn.Parameter]
    obstacle: str | None = None

    @classmethod
    def of(cls, seat: Seat, adapted: PeftModel, forward: Forward) -> Tenant:
        """Return the tenant on ``seat`` whose model is ``adapted``."""
        inner = adapted.get_base_model()
        tuners = {name: module for name, module in inner.named_modules() if isinstance(module, BaseTunerLayer)}
        layers = {name: layer for name, layer in tuners.items() if isinstance(layer, LoraLinear)}
        trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        tenant = cls(seat, forward, layers, trained)
        tenant.obstacle = _find_obstacle(tenant, tuners)
        return tenant


def _find_obstacle(tenant: Tenant, tuners: Mapping[str, BaseTunerLayer]) -> str | None:
    """Return why a shared pass cannot compute the adapter of ``tenant`` as it is computed alone; None: it can."""
    if not tenant.forward.packs or tenant.forward.head is None:
        return "the base model's rows cannot be packed or its head is not scored the fast way"
    other = next((type(one).__name__ for one in tuners.values() if not isinstance(one, LoraLinear)), None)
    if other is not None:
        return f"adapter of the kind {other}"
    layers = tenant.layers.values()
    peculiarity = next(filter(None, map(find_peculiarity, layers)), None)
    if peculiarity is not None:
        return peculiarity
    if sum(len(list(branch.parameters())) for layer in layers for branch in _branches(layer)) != len(tenant.parameters):
        return "trained weights outside of the adapter"
    # A narrowed last layer draws fewer numbers than a whole one: such a run would end elsewhere than alone.
    draws_otherwise = tenant.forward.narrows and any(map(_drops, layers))
    return "dropout" if draws_otherwise else None


@dataclass(eq=False, slots=True)
class ForwardRequest:
    """What a run wants from the model: the scores of ``documents``, and then ``scores`` or ``error``.

    Attributes:
        must_be_alone: A shared pass with these documents has failed.
        drawn_from: State of the run's generators when the pass began.
        dropouts: The adapter's that were active then.
        passed_over: How often others were chosen before it.
    """

    tenant: Tenant
    documents: Sequence[TokenSequence]
    with_grad: bool
    must_be_alone: bool = False
    scores: DocumentScores | None = None
    error: Exception | None = None
    drawn_from: RandomState | None = None
    dropouts: Sequence[nn.Dropout] = ()
    passed_over: int = 0

    @property
    def tokens(self) -> int:
        """Of all documents."""
        return sum(len(document.input_ids) for document in self.documents)


@dataclass(eq=False, slots=True)
class SharedPass:
    """A pass whose graph waits for gradients.

    Attributes:
        requests: Whose documents it went over.
        own: Where each one's log-probabilities lie.
        logprobs: [N] of all, with their graph.
        leaves: Of each one, what its loss is computed from, cut off the graph.
        awaited: Tenants that have not delivered yet.
    """

    requests: Sequence[ForwardRequest]
    own: Sequence[slice]
    logprobs: Tensor
    leaves: Sequence[Tensor]
    awaited: set[Tenant]

    def backward(self, present: Container[Tenant]) -> None:
        """Add to the gradients of the tenants that are ``present``; when it raises, none has changed."""
        gradient = torch.zeros_like(self.logprobs)
        for own, leaf in zip(self.own, self.leaves, strict=True):
            if leaf.grad is not None:
                gradient[own] = leaf.grad
        wanted = [p for request in self.requests if request.tenant in present for p in request.tenant.parameters]
        _add_gradients(self.logprobs, gradient, wanted)

    def drop_graph(self) -> None:
        """Free the activations."""
        self.logprobs = self.logprobs.detach()

    def repeat_alone(self, request: ForwardRequest) -> None:
        """Do both directions of the pass again for ``request`` alone, with its own model and the same dropout."""
        leaf = self.leaves[self.requests.index(request)]
        if leaf.grad is None:
            return
        seat, later = request.tenant.seat, request.tenant.seat.random_state
        seat.random_state = request.drawn_from
        for dropout in request.dropouts:
            dropout.train()
        try:
            with seat.randomly(), torch.enable_grad():
                found = request.tenant.forward.score(request.documents)
        finally:
            seat.random_state = later
            for dropout in request.dropouts:
                dropout.eval()
        _add_gradients(found.logprobs, leaf.grad, request.tenant.parameters)


def _add_gradients(logprobs: Tensor, gradient: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    # Not accumulated by autograd itself: a pass that runs out of memory half way must leave no half a gradient.
    found = torch.autograd.grad(logprobs, parameters, gradient, allow_unused=True) if parameters else ()
    for parameter, part in zip(parameters, found, strict=True):
        if part is not None:
            parameter.grad = part if parameter.grad is None else parameter.grad.add_(part)


def run_pass(
    forward: Forward, requests: Sequence[ForwardRequest], *, own_model: bool
) -> tuple[SharedPass | None, Sequence[DocumentScores]]:
    """Return the scores of ``requests``, all with or all without gradient, and with gradient what is left to do.

    Args:
        forward: Of the only tenant's own model, or of one whose linear layers know segments.
        requests: In the order of the pack.
        own_model: Whether it is the tenant's own.
    """
    with_grad = requests[0].with_grad
    for request in requests:
        request.drawn_from = request.tenant.seat.random_state
        request.dropouts = [one for layer in request.tenant.layers.values() for one in _active_dropouts(layer)]
    with ExitStack() as contexts:
        contexts.enter_context(torch.enable_grad() if with_grad else torch.inference_mode())
        if own_model:
            contexts.enter_context(requests[0].tenant.seat.randomly())
            found = forward.score(requests[0].documents)
        else:
            found = _score_together(forward, requests)
    own = _slices([sum(len(document.scored) for document in request.documents) for request in requests])
    logprobs = [found.logprobs[part].detach().requires_grad_(with_grad) for part in own]
    scores = [
        DocumentScores(part, found.hits[rows], found.hidden[rows].detach())
        for part, rows in zip(logprobs, own, strict=True)
    ]
    if not with_grad or not found.logprobs.requires_grad:
        return None, scores
    awaited = {request.tenant for request in requests}
    return SharedPass(requests, own, found.logprobs, logprobs, awaited), scores


def _score_together(forward: Forward, requests: Sequence[ForwardRequest]) -> DocumentScores:
    device = forward.model.device
    packs = [pack_documents(one.documents, device, shares=forward.shares) for one in requests]
    pack, rows = join_packs(packs)
    total, read = pack.input_ids.shape[1], _slices([len(one.read) for one in packs])
    tenants = [request.tenant for request in requests]
    segments = [
        Segment(own, own_read, total, tenant.layers, tenant.seat.randomly)
        for own, own_read, tenant in zip(rows, read, tenants, strict=True)
    ]
    # A run with dropout shares only where it does not narrow alone, and must then draw for all of its rows here too.
    narrows = all(tenant.forward.narrows for tenant in tenants)
    with segmented(segments):
        return replace(forward, narrows=narrows).score_pack(pack)


def _slices(lengths: Sequence[int]) -> list[slice]:
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    return [slice(start, start + length) for start, length in zip(starts, lengths, strict=True)]


def _active_dropouts(layer: LoraLinear) -> list[nn.Dropout]:
    return [one for one in layer.lora_dropout.values() if isinstance(one, nn.Dropout) and one.training]


def _drops(layer: LoraLinear) -> bool:
    return any(isinstance(one, nn.Dropout) for one in layer.lora_dropout.values())


def _branches(layer: LoraLinear) -> list[nn.ModuleDict]:
    return [layer.lora_A, layer.lora_B]

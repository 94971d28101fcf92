"""One run's side of its group: the base model, forward pass, observer and completions that it is given."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal, cast

import torch

from worker.training.engine.forward import Forward
from worker.training.engine.probe import choose_forward
from worker.training.events import PhaseEvent
from worker.training.multi_lora.passes import ForwardRequest, Tenant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

    from worker.training.completions import Completions
    from worker.training.engine.forward import DocumentScores
    from worker.training.engine.hidden_cache import HiddenStateCache
    from worker.training.engine.prefix_cache import PrefixCache
    from worker.training.events import CompletionAnswer, CompletionRequest, Event
    from worker.training.model.base_model import LoadedModel
    from worker.training.multi_lora.exchange import Exchange
    from worker.training.multi_lora.resident import ResidentBase
    from worker.training.multi_lora.turns import Seat, Turns
    from worker.training.observer import Observer
    from worker.training.spec import BaseModelRef, RuntimeSettings
    from worker.training.types import TokenSequence

# In these phases a run meets the others at every forward pass, or is done in a moment. In all others it lets them go on
# whenever it asks whether to end.
_STEADY_PHASES = frozenset({"preparing", "scoring", "training", "explaining", "saving"})


class Member:
    """A ``run.ModelSource``. Used by the thread of ``seat`` alone."""

    def __init__(self, seat: Seat, turns: Turns, base: ResidentBase, exchange: Exchange) -> None:
        self._seat = seat
        self._turns = turns
        self._base = base
        self._exchange = exchange
        self._tenants: list[Tenant] = []
        self._keeps_activations = True

    def load(self, ref: BaseModelRef, runtime: RuntimeSettings) -> LoadedModel:
        """Return the resident base; see ``ResidentBase.load``."""
        self._keeps_activations = runtime.checkpointed_layers == 0
        return self._base.load(ref, runtime)

    def choose_forward(self, adapted: PeftModel) -> Forward:
        """Return the forward pass of ``adapted`` that meets the other runs'."""
        own = choose_forward(cast("PreTrainedModel", adapted.get_base_model()))
        tenant = Tenant.of(self._seat, adapted, own)
        # Shared passes keep what they compute; a run that must not goes by itself.
        if not self._keeps_activations:
            tenant.obstacle = "checkpointed layers"
        self._tenants.append(tenant)
        self._exchange.admit(tenant)
        parts = {part.name: getattr(own, part.name) for part in fields(own)}
        if tenant.obstacle:
            told = f"This run shares its base model with others but no passes ({tenant.obstacle}): expect slower steps."
            parts["limitations"] = (*own.limitations, told)
        return _MeetingForward(**parts, meeting=_Meeting(tenant, self._turns, self._exchange))

    def watch(self, observer: Observer) -> Observer:
        """Return ``observer`` for the run: being asked whether to end, it lets other runs go on first."""
        return _RestingObserver(observer, lambda: self._turns.rest(self._seat))

    def ask(self, completions: Completions) -> Completions:
        """Return ``completions`` for the run: while it waits for answers, other runs compute."""
        return _AwayCompletions(completions, self._seat, self._turns)

    def end(self) -> None:
        """Withdraw from everything shared."""
        for tenant in self._tenants:
            self._exchange.dismiss(tenant)


@dataclass(frozen=True, slots=True)
class _Meeting:
    """Where one tenant meets the others."""

    tenant: Tenant
    turns: Turns
    exchange: Exchange

    def score(self, documents: Sequence[TokenSequence]) -> DocumentScores:
        """Have ``documents`` scored beside those of others."""
        with_grad = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        request = ForwardRequest(self.tenant, documents, with_grad)
        self.exchange.wish(request)
        self.turns.wait(self.tenant.seat)
        if request.scores is None:
            raise request.error or RuntimeError("a forward pass was not served")
        return request.scores

    def backward(self, loss: Tensor) -> None:
        """Take the gradient of ``loss`` through the model beside those of others."""
        torch.autograd.backward(loss)
        if not self.exchange.deliver(self.tenant):
            return
        self.turns.wait(self.tenant.seat)
        failure = self.exchange.take_failure(self.tenant)
        if failure is not None:
            raise failure


@dataclass(frozen=True, slots=True)
class _MeetingForward(Forward):
    """A run's own forward pass, but for what it does together with others."""

    meeting: _Meeting = field(kw_only=True)

    def score(
        self,
        documents: Sequence[TokenSequence],
        *,
        into: PrefixCache | None = None,  # noqa: ARG002 - never given, since this lends nothing
        behind: PrefixCache | None = None,  # noqa: ARG002
        known: HiddenStateCache | None = None,  # noqa: ARG002 - never given either: no layer is passed over
    ) -> DocumentScores:
        return self.meeting.score(documents)

    def backward(self, loss: Tensor) -> None:
        self.meeting.backward(loss)


class _RestingObserver:
    def __init__(self, observer: Observer, rest: Callable[[], None]) -> None:
        self._observer = observer
        self._rest = rest
        self._is_steady = True

    def emit(self, event: Event) -> None:
        if isinstance(event, PhaseEvent):
            self._is_steady = event.phase in _STEADY_PHASES
        self._observer.emit(event)

    def stop_requested(self) -> Literal["stop", "cancel"] | None:
        if not self._is_steady:
            self._rest()
        return self._observer.stop_requested()


class _AwayCompletions:
    def __init__(self, completions: Completions, seat: Seat, turns: Turns) -> None:
        self._completions = completions
        self._seat = seat
        self._turns = turns

    def complete(
        self, requests: Sequence[CompletionRequest], on_done: Callable[[int, int], None]
    ) -> list[CompletionAnswer]:
        def come_back(done: int, total: int) -> None:
            self._turns.enter(self._seat)
            try:
                on_done(done, total)
            finally:
                self._turns.go_out(self._seat)

        self._turns.go_out(self._seat)
        try:
            return self._completions.complete(requests, come_back)
        finally:
            self._turns.enter(self._seat)

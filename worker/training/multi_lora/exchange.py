"""Where runs meet: collects what they want from the model and serves it in shared packs, or alone where it must be.

A shared pack is bounded in tokens; the oldest wish comes first, but for a little patience. At most one graph waits for
gradients at a time, so that the activations in memory are those of one pack. Whatever goes wrong in a shared pass is
tried again run by run, so that only the one at fault hears of it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from worker.training.engine.memory import is_out_of_memory, release_memory
from worker.training.multi_lora.passes import ForwardRequest, SharedPass, Tenant, run_pass

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from worker.training.engine.forward import Forward
    from worker.training.multi_lora.turns import Seat

_PATIENCE = 3
"""How often a wish lets passes without gradient go first: a method has no more than two of them before its last."""

logger = logging.getLogger("worker.training")


class Exchange:
    """Serves the wishes of tenants. Nothing here locks: only who has the turn may call.

    Args:
        share: Returns, for the forward of a tenant that can share, that of the model whose layers know segments.
        tokens: Returns the most tokens of a pack that several share, as long as memory suffices for them.
    """

    def __init__(self, share: Callable[[Forward], Forward], tokens: Callable[[], int]) -> None:
        self._share = share
        self._tokens = tokens
        self._shrunk: int | None = None
        self._tenants: set[Tenant] = set()
        self._wishes: list[ForwardRequest] = []
        self._open: list[SharedPass] = []
        self._failures: dict[Tenant, Exception] = {}

    def admit(self, tenant: Tenant) -> None:
        """Take ``tenant`` in."""
        self._tenants.add(tenant)

    def dismiss(self, tenant: Tenant) -> None:
        """Forget ``tenant``; passes that it took part in go on without it."""
        self._tenants.discard(tenant)
        for one in self._open:
            one.awaited.discard(tenant)

    def wish(self, request: ForwardRequest) -> None:
        """Take in a wish; its tenant then waits for its turn."""
        self._wishes.append(request)

    def deliver(self, tenant: Tenant) -> bool:
        """Note that the gradients of ``tenant``'s log-probabilities are there; return whether any pass awaited them."""
        awaiting = [one for one in self._open if tenant in one.awaited]
        for one in awaiting:
            one.awaited.discard(tenant)
        return bool(awaiting)

    def take_failure(self, tenant: Tenant) -> Exception | None:
        """Return, once, what went wrong in the backward pass of ``tenant``."""
        return self._failures.pop(tenant, None)

    def serve(self) -> Collection[Seat]:
        """Do one thing that tenants wait for and return the seats of those that can go on; none: there is nothing."""
        complete = next((one for one in self._open if not one.awaited), None)
        if complete is not None:
            return [tenant.seat for tenant in self._go_back(complete)]
        while chosen := self._choose():
            for request in chosen:
                self._wishes.remove(request)
            if self._go_forward(chosen):
                return [request.tenant.seat for request in chosen]
        return ()

    def _choose(self) -> list[ForwardRequest]:
        """Return the oldest wish that can be served, and those that fit beside it."""
        possible = [wish for wish in self._wishes if self._may_begin(wish)]
        if not possible:
            return []
        # A run that scores before it trains will want a gradient next, so waiting for it makes a fuller pack.
        passed_over = max(wish.passed_over for wish in possible)
        first = possible[0] if passed_over >= _PATIENCE else min(possible, key=lambda wish: wish.with_grad)
        for wish in possible:
            wish.passed_over += 1
        if first.tenant.obstacle or first.must_be_alone:
            return [first]
        chosen, room = [first], (self._shrunk or self._tokens()) - first.tokens
        for wish in possible:
            fits = wish is not first and wish.tokens <= room and wish.with_grad == first.with_grad
            if fits and not wish.tenant.obstacle and not wish.must_be_alone:
                chosen.append(wish)
                room -= wish.tokens
        return chosen

    def _may_begin(self, wish: ForwardRequest) -> bool:
        """Return whether the wish would keep no second pack of activations, unless its tenant holds up the first."""
        if not wish.with_grad or not self._open:
            return True
        return any(wish.tenant in one.awaited for one in self._open)

    def _go_forward(self, chosen: list[ForwardRequest]) -> bool:
        """Run one pass and return whether it served ``chosen``; else their wishes stand again, each by itself."""
        alone = len(chosen) == 1
        forward = chosen[0].tenant.forward if alone else self._share(chosen[0].tenant.forward)
        try:
            opened, scores = run_pass(forward, chosen, own_model=alone)
        except Exception as error:  # noqa: BLE001 - it belongs to the run, which knows what to make of it
            if alone:
                chosen[0].error = error
                return True
            self._note_failed(error, sum(request.tokens for request in chosen))
        else:
            for request, part in zip(chosen, scores, strict=True):
                request.scores = part
            self._open += [opened] if opened is not None else []
            return True
        # Outside the handler: the traceback holds the tensors of the failed pass alive.
        release_memory()
        for request in chosen:
            request.must_be_alone = True
        self._wishes[:0] = chosen
        return False

    def _go_back(self, complete: SharedPass) -> list[Tenant]:
        """Run the backward pass and return the tenants that were waiting for nothing else."""
        self._open.remove(complete)
        present = [request for request in complete.requests if request.tenant in self._tenants]
        alone = len(complete.requests) == 1
        is_done = False
        try:
            complete.backward(self._tenants)
            is_done = True
        except Exception as error:  # noqa: BLE001 - as above
            if alone:
                self._failures |= {request.tenant: error for request in present}
            else:
                self._note_failed(error, sum(request.tokens for request in complete.requests))
        if not is_done and not alone:
            complete.drop_graph()
            release_memory()
            for request in present:
                try:
                    complete.repeat_alone(request)
                except Exception as error:  # noqa: BLE001 - as above
                    self._failures[request.tenant] = error
        return [request.tenant for request in present if not self._is_open_for(request.tenant)]

    def _is_open_for(self, tenant: Tenant) -> bool:
        return any(request.tenant is tenant for one in self._open for request in one.requests)

    def _note_failed(self, error: Exception, tokens: int) -> None:
        logger.warning("a pass that runs shared has failed (%s); each repeats it alone", type(error).__name__)
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            self._shrunk = max(1, tokens // 2)

"""A base model that several ranks hold together, each a share of every decoder layer, and how they keep in step.

FSDP2 (https://arxiv.org/abs/2304.11277, ``torch.distributed.fsdp.fully_shard``) gathers the weights of a layer from all
ranks before it runs, forward and backward, and drops them behind it. So no rank can run a layer unless all take part,
while each has passes of its own: other numbers of micro-batches and contexts, answers of other lengths, or a probe that
is the first rank's alone.

Therefore the ranks meet before every pass and tell what each is about to do. Forward passes go first, then backward
passes. Who wants neither, or the other, *shadows* the pass: gathers the same layers in the same order and drops them. A
rank that waits for the others rests, shadowing until all rest. A pass that breaks off midway, for want of memory or
whatever else, is shadowed to its end at the rank's next meeting, since the others are still inside it.
"""

from __future__ import annotations

from datetime import timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule, fully_shard

from worker.training.errors import SpecError
from worker.training.model.decoder_layers import find_decoder_layers, find_lowest_trained

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel

# As long as one rank may work while the others rest, see ``parallel``.
_REST = timedelta(days=30)


class _Turn(IntEnum):
    """What a rank is about to do; the lowest of all ranks is what happens."""

    FORWARD = 0
    BACKWARD = 1
    REST = 2


class Lockstep:
    """The passes of one sharded model, seen from one rank. All ranks make it, and call it, alike.

    Args:
        model: A frozen model whose decoder layers lie in host memory; the others of its weights stay whole.
        mesh: The devices of all ranks, in one dimension.

    Raises:
        SpecError: The decoder layers of the model are not known as such.
    """

    def __init__(self, model: PreTrainedModel, mesh: DeviceMesh) -> None:
        layers = find_decoder_layers(model)
        if not layers:
            raise SpecError(
                "this base model cannot be sharded, since its decoder layers are not known as such", "model"
            )
        self._gathers = _CountedGathers()
        self._order: Sequence[FSDPModule] = ()
        self._layers = [fully_shard(layer, mesh=mesh) for layer in layers]
        for layer in self._layers:
            layer.set_custom_all_gather(self._gathers)  # type: ignore[arg-type]  # the base class has no public name
        # Meetings come before what FSDP does at the same place. The root gathers nothing itself, but layers of one
        # root can gather ahead while another computes.
        root = model.base_model
        root.register_forward_hook(self._meet_before_backward)
        self._root = fully_shard(root, mesh=mesh, ignored_params=set(root.parameters()))
        root.register_forward_pre_hook(self._meet_before_forward, prepend=True)
        self._has_run = False

    def connect(self) -> None:
        """Meet the other ranks for the first time."""
        self._group = dist.new_group(backend="gloo", timeout=_REST)
        # Buffers made in inference mode, where a first pass may run, could not be used in a backward pass.
        self.follow_trained()
        self._begin(_Turn.FORWARD)
        self._finish()

    def follow_trained(self) -> None:
        """Take in which layers are trained: a backward pass ends at the lowest."""
        self._lowest = find_lowest_trained(cast("list[nn.Module]", self._layers))
        for index, layer in enumerate(self._layers):
            # Of its own accord FSDP follows the passes it saw, of which ranks have different ones. The last gathers
            # nothing ahead: what it holds.
            following = index - 1 if index > self._lowest else index
            layer.set_modules_to_backward_prefetch([self._layers[following]])

    def rest(self) -> None:
        """Take part in the passes of the other ranks until none has any left."""
        self._meet(_Turn.REST)

    def _meet_before_forward(self, *_: Any) -> None:
        self._meet(_Turn.FORWARD)

    def _meet_before_backward(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        hidden: Tensor = output[0]
        if hidden.requires_grad:
            hidden.register_hook(lambda _: self._meet(_Turn.BACKWARD))  # type: ignore[no-untyped-call]  # torch's own

    def _meet(self, own: _Turn) -> None:
        """Wait for the turn to do this rank's ``own``."""
        if self._has_run:
            self._root.reset_iter_state()
        self._finish()
        while (turn := self._hear(own)) is not own:
            self._begin(turn)
            self._finish()
        self._begin(own)
        self._has_run |= own is _Turn.FORWARD

    def _hear(self, own: _Turn) -> _Turn:
        first = torch.tensor(int(own))
        dist.all_reduce(first, dist.ReduceOp.MIN, group=self._group)
        return _Turn(int(first))

    def _begin(self, turn: _Turn) -> None:
        self._gathers.count = 0
        backward = self._layers[self._lowest :][::-1]
        self._order = {_Turn.FORWARD: self._layers, _Turn.BACKWARD: backward, _Turn.REST: ()}[turn]

    def _finish(self) -> None:
        """Gather what the pass that was begun has left to gather."""
        for layer in self._order[self._gathers.count :]:
            layer.unshard()
            layer.reshard()


class _CountedGathers:
    """The all-gather of FSDP2, counted as it is issued (``torch.distributed.fsdp``'s ``AllGather``)."""

    def __init__(self) -> None:
        self.count = 0

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return memory for what is gathered."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work | None:
        """Gather the shares of all ranks into ``output_tensor``."""
        work: dist.Work | None = dist.all_gather_single(output_tensor, input_tensor, group=group, async_op=async_op)
        self.count += 1
        return work

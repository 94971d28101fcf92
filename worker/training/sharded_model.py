"""A base model for several processes that do not have the room for all of it each: every one holds a share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.distributed.device_mesh import init_device_mesh

from worker.training.engine.lockstep import Lockstep
from worker.training.model.base_model import read_base_model, require_causal_attention

if TYPE_CHECKING:
    from peft import PeftModel
    from torch.distributed.device_mesh import DeviceMesh

    from worker.training.engine.parallel import Ranks
    from worker.training.model.base_model import LoadedModel
    from worker.training.spec import BaseModelRef, RuntimeSettings


class ShardedModel:
    """A ``run.ModelSource`` whose models are sharded over ``ranks``; adapters stay whole on each.

    Args:
        ranks: Connected, more than one. They keep in step from the moment a model is loaded.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._lockstep: Lockstep | None = None

    def load(self, ref: BaseModelRef, runtime: RuntimeSettings) -> LoadedModel:
        """Load the model into host memory and this rank's share of it onto its device; see ``load_base_model``.

        Raises:
            SpecError: The decoder layers of the model are not known as such.
        """
        loaded = self._ranks.agree(lambda: read_base_model(ref, runtime))
        mesh = init_device_mesh(loaded.device.type, (self._ranks.size,))
        self._lockstep = self._ranks.agree(lambda: _shard(loaded, mesh))
        self._ranks.keep_step(self._lockstep)
        require_causal_attention(loaded.model, ref.name)
        return loaded

    def choose_forward(self, adapted: PeftModel) -> None:  # noqa: ARG002 - the adapter lies in the layers
        """Leave it to the engine, but see which layers are trained now."""
        if self._lockstep is not None:
            self._lockstep.follow_trained()


def _shard(loaded: LoadedModel, mesh: DeviceMesh) -> Lockstep:
    lockstep = Lockstep(loaded.model, mesh)
    loaded.model.to(loaded.device)  # type: ignore[arg-type]  # as in `load_base_model`
    return lockstep

"""One base model in memory for several runs: every run gets module objects of its own around the same weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from torch import nn

from worker.training.engine.memory import choose_micro_batch_tokens
from worker.training.errors import SpecError
from worker.training.model.base_model import LoadedModel, load_base_model
from worker.training.multi_lora.linear import SegmentedLinear

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from transformers import PreTrainedModel

    from worker.training.engine.forward import Forward
    from worker.training.spec import BaseModelRef, RuntimeSettings

_NEVER_SHARED = ("device", "dtype", "threads", "deterministic")


class ResidentBase:
    """Loads a base model at the first wish and shares its weights with all later ones."""

    def __init__(self) -> None:
        self._loaded: LoadedModel | None = None
        self._first: tuple[BaseModelRef, RuntimeSettings] | None = None
        self._segmented: Forward | None = None
        self._attention: AbstractContextManager[None] | None = None

    def load(self, ref: BaseModelRef, runtime: RuntimeSettings) -> LoadedModel:
        """Return the base model with layers that an adapter may be put around without touching other runs.

        Raises:
            BaseModelError: The model cannot be loaded.
            SpecError: ``ref`` or ``runtime`` is not that of the runs that are here already.
        """
        if self._loaded is None or self._first is None:
            self.hold(load_base_model(ref, runtime), ref, runtime)
        loaded, first = self._known()
        if ref.digest != first[0].digest or not can_share(runtime, first[1]):
            raise SpecError("runs on one resident base need the same base model, device and precision", "model")
        return replace(loaded, model=share_weights(loaded.model))

    def hold(self, loaded: LoadedModel, ref: BaseModelRef, runtime: RuntimeSettings) -> None:
        """Keep a model that is loaded already."""
        self._loaded, self._first = loaded, (ref, runtime)

    @property
    def pack_tokens(self) -> int:
        """Most tokens of one forward pass on the device of the model."""
        loaded, (_, runtime) = self._known()
        return choose_micro_batch_tokens(runtime, loaded.device)

    def share(self, forward: Forward) -> Forward:
        """Return ``forward``, of a run's own model, for the one model whose linear layers know segments."""
        if self._segmented is None:
            model = share_weights(self._known()[0].model)
            _put_segmented_layers(model)
            self._segmented = replace(forward, model=model)
            self._attention = self._segmented.attention()
            self._attention.__enter__()  # for good: nobody generates with this one
        return self._segmented

    def _known(self) -> tuple[LoadedModel, tuple[BaseModelRef, RuntimeSettings]]:
        if self._loaded is None or self._first is None:
            raise RuntimeError("no base model is loaded yet")
        return self._loaded, self._first


def can_share(one: RuntimeSettings, other: RuntimeSettings) -> bool:
    """Return whether runs with these settings can use the same weights in one process."""
    return all(getattr(one, name) == getattr(other, name) for name in _NEVER_SHARED)


def share_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Return new modules and a new configuration around the parameters and buffers of ``model``."""
    known = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, known)


def _put_segmented_layers(model: PreTrainedModel) -> None:
    head = model.get_output_embeddings()
    linear = [(name, one) for name, one in model.named_modules() if type(one) is nn.Linear and one is not head]
    for name, layer in linear:
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, SegmentedLinear(name, layer))

"""Which layers of a model an adapter goes into, in the words of PEFT's configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from worker.training.errors import SpecError
from worker.training.model.decoder_layers import find_decoder_layers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.training.spec import LoraSettings

_PARAM = "adapter.layers_to_transform"


def find_targets(model: nn.Module, settings: LoraSettings) -> Mapping[str, Any]:
    """Return the arguments of ``LoraConfig`` that say which modules of ``model`` are adapted.

    Raises:
        SpecError: ``layers_to_transform`` names a decoder layer that the model has not or leaves out one of
            ``target_modules``, or the model's layers are not known.
    """
    if settings.layers_to_transform == "all":
        return {"target_modules": settings.target_modules}
    layers, pattern = _list_layers(model)
    wanted = settings.layers_to_transform
    missing = [index for index in wanted if not -len(layers) <= index < len(layers)]
    if missing:
        raise SpecError(
            f"the base model has {len(layers)} decoder layers, so there is no layer {missing[0]}; "
            f"the lowest is 0, the highest {len(layers) - 1} or -1",
            _PARAM,
        )
    indices = sorted({index % len(layers) for index in wanted})
    chosen = [layers[index] for index in indices]
    names = settings.target_modules
    if names == "all-linear":
        names = _list_linear(chosen)  # PEFT takes no shorthand beside a choice of layers
    else:
        _require_inside(model, names, chosen)
    return {"target_modules": names, "layers_to_transform": indices, "layers_pattern": pattern}


def _list_layers(model: nn.Module) -> tuple[list[nn.Module], str]:
    """Return the decoder layers in order and the name of the list that holds them."""
    layers = find_decoder_layers(model)
    names = {id(module): name for name, module in model.named_modules()}
    paths = [names[id(layer)].split(".") for layer in layers]
    expected = [[*paths[0][:-1], str(index)] for index in range(len(layers))] if layers else []
    if not layers or paths != expected:
        raise SpecError("the decoder layers of this base model are not known as such; leave the choice out", _PARAM)
    return layers, paths[0][-2]


def _list_linear(layers: Sequence[nn.Module]) -> list[str]:
    """Return the names, within a layer, of the linear modules of ``layers``."""
    return sorted(
        {name for layer in layers for name, module in layer.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    )


def _require_inside(model: nn.Module, names: Sequence[str], layers: Sequence[nn.Module]) -> None:
    """Refuse full names of modules outside of ``layers``: PEFT adapts those whatever layers are chosen."""
    inside = {id(module) for layer in layers for module in layer.modules()}
    modules = dict(model.named_modules())
    for name in names:
        if name in modules and id(modules[name]) not in inside:
            raise SpecError(f"{name} lies in none of the layers of layers_to_transform", "adapter.target_modules")

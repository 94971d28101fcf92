"""Which modules of a model are its decoder layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers.modeling_layers import GradientCheckpointingLayer

if TYPE_CHECKING:
    from torch import nn


def find_decoder_layers(model: nn.Module) -> list[nn.Module]:
    """Return the decoder layers of ``model``, the first at the bottom; none where they are not known as such."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def find_lowest_trained(layers: list[nn.Module]) -> int:
    """Return the index of the lowest of ``layers`` that has a trained parameter; their number where none has."""
    trained = (any(parameter.requires_grad for parameter in layer.parameters()) for layer in layers)
    return next((index for index, is_trained in enumerate(trained) if is_trained), len(layers))

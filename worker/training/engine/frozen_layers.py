"""The decoder layers below the lowest trained one, which need not run where what leaves them is known.

Nothing that is trained comes before them, so what leaves them at a token is the frozen base's: it depends on the tokens
of the text up to there and on nothing else, not on the adapter, its dropout or the neighbours in a pack.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from worker.training.model.decoder_layers import find_decoder_layers, find_lowest_trained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedModel


class FrozenLayers:
    """Runs these layers alone, or has passes go over them.

    Args:
        layers: All decoder layers below the lowest trained one, the first at the bottom; at least one.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._layers = layers
        self._known: Tensor | None = None
        self._runs_alone = False

    @classmethod
    def of(cls, model: PreTrainedModel) -> Self:
        """Return the frozen layers of ``model``.

        Raises:
            NotImplementedError: It has none, or they cannot be told from what is trained, or run by themselves.
        """
        layers = find_decoder_layers(model)
        frozen = layers[: find_lowest_trained(layers)]
        if len(frozen) in {0, len(layers)}:
            raise NotImplementedError("there is no frozen decoder layer below a trained one")
        above = [*layers[len(frozen) :], model.get_output_embeddings()]
        known = {id(parameter) for module in above if module is not None for parameter in module.parameters()}
        if any(parameter.requires_grad and id(parameter) not in known for parameter in model.parameters()):
            raise NotImplementedError("weights outside of its decoder layers are trained")
        # Running a layer then takes all processes, and each has other texts to run it for.
        if any(isinstance(layer, FSDPModule) for layer in frozen):
            raise NotImplementedError("its layers are spread over several processes")
        return cls(frozen)

    @contextmanager
    def switchable(self) -> Iterator[None]:
        """Let the model heed ``run`` and ``passed_over`` inside."""
        with ExitStack() as stack:
            for layer in self._layers:
                layer.forward = partial(self._forward, layer, layer.forward)
                stack.callback(delattr, layer, "forward")
            yield

    def run(self, forward: Callable[[], object]) -> Tensor:
        """Return what leaves the layers [1, T, D] where ``forward`` runs the model, which goes no further.

        Raises:
            NotImplementedError: The model does not run them one after the other, or they return something else.
        """
        self._runs_alone = True
        try:
            forward()
        except _LeftFrozen as left:
            return left.hidden
        finally:
            self._runs_alone = False
        raise NotImplementedError("its decoder layers are not run one after the other")

    @contextmanager
    def passed_over(self, hidden: Tensor) -> Iterator[None]:
        """Let a pass inside go over the layers: ``hidden`` [1, T, D] leaves them."""
        self._known = hidden
        try:
            yield
        finally:
            self._known = None

    def _forward(
        self, layer: nn.Module, own: Callable[..., Any], hidden: Tensor, *arguments: Any, **named: Any
    ) -> Tensor:
        if self._known is not None:
            return self._known
        output = own(hidden, *arguments, **named)
        if not isinstance(output, Tensor):
            raise NotImplementedError("its decoder layers return more than hidden states")
        if self._runs_alone and layer is self._layers[-1]:
            raise _LeftFrozen(output)
        return output


class _LeftFrozen(Exception):  # noqa: N818 - a way out of the model, not an error
    """The last frozen layer is done, and returned ``hidden``."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

"""What cannot be sharded is refused; what can is trained by two processes in test_sharded above."""

from typing import Any, cast

import pytest
import torch

from tests.training.models import adapt, random_model
from worker.training.engine.lockstep import Lockstep
from worker.training.errors import SpecError
from worker.training.model.decoder_layers import find_decoder_layers, find_lowest_trained


def test_a_model_without_known_layers_is_refused() -> None:
    with pytest.raises(SpecError, match="cannot be sharded") as raised:
        Lockstep(cast("Any", torch.nn.Linear(2, 2)), cast("Any", None))
    assert raised.value.param == "model"


@pytest.mark.parametrize(("targets", "lowest"), [("all-linear", 0), (["layers.2.mlp.up_proj"], 2)])
def test_the_lowest_trained_layer_is_found(targets: Any, lowest: int) -> None:
    model = random_model("llama", num_hidden_layers=3)
    assert find_lowest_trained(find_decoder_layers(model)) == 3
    adapted = adapt(model, target_modules=targets)
    assert find_lowest_trained(find_decoder_layers(adapted)) == lowest

"""What is left out of the last layer is read by nobody: same scores, same gradients."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.builders import documents
from tests.training.models import CONFIGS, adapt, gradients, inner, random_model
from worker.training.engine.forward import Forward
from worker.training.engine.last_layer import find_narrowable
from worker.training.engine.probe import choose_forward
from worker.training.types import TokenSequence

# The second half of each document is scored; the last two begin alike, so that one token predicts two.
_PLAIN = [
    TokenSequence(d.input_ids, np.arange(len(d.input_ids) // 2, len(d.input_ids), dtype=np.int32))
    for d in documents(30, 21, 40)
]
_ALIKE = [
    TokenSequence(np.append(_PLAIN[2].input_ids, last).astype(np.int32), np.arange(40, 41, dtype=np.int32))
    for last in (5, 6)
]
DOCUMENTS = [*_PLAIN, *_ALIKE]


def run(forward: Forward) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities and final hidden states after a backward pass."""
    with forward.attention():
        scores = forward.score(DOCUMENTS)
        torch.autograd.backward((scores.logprobs * torch.linspace(1, 2, len(scores.logprobs))).sum())
    return scores.logprobs.detach(), scores.hidden.detach()


@pytest.mark.parametrize("family", CONFIGS)
def test_scores_and_gradients_are_those_of_the_whole_layer(family: str) -> None:
    adapted = adapt(random_model(family))
    chosen = choose_forward(inner(adapted))
    assert chosen.narrows
    expected, wanted = run(replace(chosen, narrows=False)), gradients(adapted)
    found, got = run(chosen), gradients(adapted)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-5, atol=1e-5)


def test_the_last_layer_works_on_what_is_read_alone() -> None:
    model = random_model("llama")
    seen = []
    mlp = find_narrowable(model)[0]
    mlp.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape[1]))
    chosen = replace(choose_forward(model), shares=False)
    seen.clear()
    with chosen.attention(), torch.no_grad():
        chosen.score(_PLAIN)
    assert seen == [sum(len(document.scored) for document in _PLAIN)]
    assert not mlp._forward_pre_hooks


def test_where_nearly_all_is_read_nothing_is_left_out() -> None:
    model = random_model("llama")
    chosen = choose_forward(model)
    seen = []
    find_narrowable(model)[0].register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape[1]))
    with chosen.attention(), torch.no_grad():
        chosen.score(documents(50))
    assert seen == [50]


def test_a_model_whose_mlp_looks_at_other_positions_is_run_whole() -> None:
    model = random_model("llama")
    mlp = find_narrowable(model)[0]
    mlp.register_forward_pre_hook(lambda _module, inputs: (inputs[0] + inputs[0].roll(1, dims=1),))
    chosen = choose_forward(model)
    assert chosen.head is not None
    assert not chosen.narrows

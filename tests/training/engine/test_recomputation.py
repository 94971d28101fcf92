"""Checkpointed layers: the same gradient to the last bit, from less that is kept."""

import pytest
import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from tests.training.engine.prepared import make_scorer, prepare
from tests.training.models import CONFIGS, adapt, gradients, inner, random_model
from worker.training.engine.recomputation import CheckpointedLayers
from worker.training.engine.scoring import Scorer
from worker.training.types import ScoringPass

ROWS = prepare([{"completion": 9}, {"completion": 21}, {"completion": 14}])
PASS = ScoringPass("completion", "completion", with_grad=True)


def score(scorer: Scorer) -> tuple[Tensor, int]:
    """Return the log-probabilities after a backward pass, and the bytes that autograd kept for it."""
    kept = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() * tensor.itemsize)
        return tensor

    torch.manual_seed(3)
    with scorer.attention():
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logprobs = scorer.score(ROWS, [PASS])[0].passes["completion"].logprobs
        # By now the layout of the documents and the adapter's dropout are no longer set.
        torch.autograd.backward(logprobs.sum())
    return logprobs.detach(), sum(kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("dropout", [0.0, 0.3], ids=["plain", "dropout"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3", "gpt2"])
def test_gradients_are_equal_to_the_last_bit(family: str, dropout: float, dtype: torch.dtype) -> None:
    model = random_model(family)
    model.to(dtype=dtype)  # type: ignore[call-arg] # transformers' wrapper loses `self`
    adapted = adapt(model, dropout=dropout)
    scorer = Scorer(adapted, micro_batch_tokens=1000)
    expected, everything = score(scorer)
    wanted = gradients(adapted)
    for count in (1, 2):
        scorer.memory.checkpoint_layers(count)
        logprobs, kept = score(scorer)
        assert torch.equal(logprobs, expected)
        assert kept < everything
        everything = kept
        found = gradients(adapted)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], gradient) for name, gradient in wanted.items())


def test_the_base_models_own_dropout_stays_off() -> None:
    adapted = adapt(random_model("gpt2", resid_pdrop=0.5, attn_pdrop=0.5))
    scorer = Scorer(adapted, micro_batch_tokens=1000)
    expected, _ = score(scorer)
    wanted = gradients(adapted)
    scorer.memory.checkpoint_layers(2)
    assert torch.equal(score(scorer)[0], expected)
    assert all(torch.equal(gradient, wanted[name]) for name, gradient in gradients(adapted).items())
    assert not any(module.training for module in adapted.modules())


@pytest.mark.parametrize("family", CONFIGS)
def test_layers_of_all_families_are_known(family: str) -> None:
    model = random_model(family)
    assert CheckpointedLayers(adapt(model)).total == model.config.get_text_config().num_hidden_layers


def test_the_dial_goes_back_and_stops_at_all() -> None:
    adapted, _ = make_scorer()
    layers = CheckpointedLayers(adapted)
    layers.checkpoint(9)
    assert layers.count == layers.total == 2
    layers.checkpoint(0)
    assert not any("forward" in module.__dict__ for module in inner(adapted).modules())


def test_layers_that_keep_nothing_are_not_counted() -> None:
    adapted = adapt(random_model("llama", num_hidden_layers=3), target_modules=["layers.1.mlp.up_proj"])
    assert CheckpointedLayers(adapted).total == 2


def test_layers_below_the_lowest_trained_one_run_without_graph() -> None:
    adapted = adapt(random_model("llama", num_hidden_layers=3), target_modules=["layers.1.mlp.up_proj"])
    followed = []
    for layer in (module for module in adapted.modules() if isinstance(module, GradientCheckpointingLayer)):
        layer.register_forward_hook(lambda _module, _inputs, output: followed.append(output.requires_grad))
    scorer = Scorer(adapted, micro_batch_tokens=1000)
    followed.clear()
    score(scorer)
    assert followed == [False, True, True]

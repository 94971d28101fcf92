"""A shared pass gives every run the scores and gradients of its own model, whatever is in the rows of others."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.fixtures.tiny_models import build_tokenizer
from tests.training.builders import documents
from tests.training.models import adapt, gradients, inner, random_model
from worker.training.engine.forward import DocumentScores
from worker.training.engine.prefixes import LEAST_SHARED
from worker.training.engine.probe import choose_forward
from worker.training.model.base_model import LoadedModel
from worker.training.multi_lora.passes import ForwardRequest, Tenant, run_pass
from worker.training.multi_lora.resident import ResidentBase, share_weights
from worker.training.multi_lora.turns import Seat
from worker.training.spec import BaseModelRef, RuntimeSettings
from worker.training.types import TokenSequence

SETTINGS = ({"r": 4}, {"r": 2, "target_modules": ["q_proj", "down_proj"]}, {"r": 8, "alpha": 3.0})


def alike(count: int, seed: int) -> list[TokenSequence]:
    """Return documents that begin alike, long enough for the beginning to be computed once."""
    prefix, *branches = documents(LEAST_SHARED + 5, *range(6, 6 + count), seed=seed)
    ids = [np.concatenate([prefix.input_ids, branch.input_ids]) for branch in branches]
    return [TokenSequence(own, np.arange(LEAST_SHARED, len(own), dtype=np.int32)) for own in ids]


def square(scores: DocumentScores) -> None:
    """Take the gradient of a loss that weighs every token otherwise."""
    torch.autograd.backward(scores.logprobs.square().sum())


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
def test_scores_and_gradients_are_those_of_each_runs_own_model(family: str) -> None:
    base, resident = random_model(family), ResidentBase()
    adapted = [adapt(share_weights(base), **settings) for settings in SETTINGS]
    tenants = [Tenant.of(Seat(), one, choose_forward(inner(one))) for one in adapted]
    texts = [alike(2, seed=1), half_read(12, seed=2), alike(3, seed=3)]
    loaded = LoadedModel(base, build_tokenizer(), 512, 1, base.device, base.dtype)
    resident.hold(loaded, BaseModelRef(name="tiny", path="", digest=""), RuntimeSettings())
    expected = []
    for tenant, one, text in zip(tenants, adapted, texts, strict=True):
        with tenant.forward.attention():
            scores = tenant.forward.score(text)
        square(scores)
        expected.append((scores, gradients(one)))

    requests = [ForwardRequest(tenant, text, with_grad=True) for tenant, text in zip(tenants, texts, strict=True)]
    opened, found = run_pass(resident.share(tenants[0].forward), requests, own_model=False)
    for scores in found:
        square(scores)
    assert opened is not None
    opened.backward(set(tenants))

    for one, scores, (own, gradient) in zip(adapted, found, expected, strict=True):
        torch.testing.assert_close(scores.logprobs.detach(), own.logprobs.detach(), rtol=1e-5, atol=1e-6)
        assert torch.equal(scores.hits, own.hits)
        torch.testing.assert_close(gradients(one), gradient, rtol=1e-4, atol=1e-6)


def half_read(length: int, seed: int) -> list[TokenSequence]:
    """Return one document whose second half is scored."""
    (whole,) = documents(length, seed=seed)
    return [TokenSequence(whole.input_ids, np.arange(length // 2, length, dtype=np.int32))]


@pytest.mark.parametrize("narrow", [True, False])
def test_rows_that_nobody_reads_are_left_out_of_the_last_layer_where_every_run_leaves_them_out(narrow: bool) -> None:
    base, resident = random_model(), ResidentBase()
    loaded = LoadedModel(base, build_tokenizer(), 512, 1, base.device, base.dtype)
    resident.hold(loaded, BaseModelRef(name="tiny", path="", digest=""), RuntimeSettings())
    adapted = [adapt(share_weights(base), **settings) for settings in SETTINGS[:2]]
    forwards = [choose_forward(inner(one)) for one in adapted]
    assert all(forward.narrows for forward in forwards)
    forwards[1] = replace(forwards[1], narrows=narrow)
    tenants = [Tenant.of(Seat(), one, forward) for one, forward in zip(adapted, forwards, strict=True)]
    texts = [half_read(20, seed=1), half_read(12, seed=2)]
    shared = resident.share(forwards[0])
    rows: list[int] = []
    shared.model.get_submodule("model.layers.1.mlp.down_proj").register_forward_pre_hook(
        lambda _, inputs: rows.append(inputs[0].shape[-2])
    )
    requests = [ForwardRequest(tenant, text, with_grad=True) for tenant, text in zip(tenants, texts, strict=True)]
    _, found = run_pass(shared, requests, own_model=False)
    assert rows == [16 if narrow else 32]
    for forward, text, scores in zip(forwards, texts, found, strict=True):
        with forward.attention():
            own = forward.score(text)
        torch.testing.assert_close(scores.logprobs.detach(), own.logprobs.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_stays_in_the_rows_of_its_run(value: float) -> None:
    base, resident = random_model(), ResidentBase()
    loaded = LoadedModel(base, build_tokenizer(), 512, 1, base.device, base.dtype)
    resident.hold(loaded, BaseModelRef(name="tiny", path="", digest=""), RuntimeSettings())
    texts = [documents(9, 7, seed=1), half_read(12, seed=2)]
    results = []
    for poison in (None, value):
        adapted = [adapt(share_weights(base), **settings) for settings in SETTINGS[:2]]
        tenants = [Tenant.of(Seat(), one, choose_forward(inner(one))) for one in adapted]
        if poison is not None:
            for parameter in tenants[1].parameters:
                parameter.data.fill_(poison)
        requests = [ForwardRequest(tenant, text, with_grad=True) for tenant, text in zip(tenants, texts, strict=True)]
        opened, found = run_pass(resident.share(tenants[0].forward), requests, own_model=False)
        for scores in found:
            square(scores)
        assert opened is not None
        opened.backward(set(tenants))
        assert torch.isfinite(found[1].logprobs).all() == (poison is None)
        results.append((found[0].logprobs.detach(), gradients(adapted[0])))
    (sane, sane_gradient), (beside, beside_gradient) = results
    assert torch.equal(sane, beside)
    assert all(torch.equal(sane_gradient[name], beside_gradient[name]) for name in sane_gradient)

"""The cache finds texts by their tokens, and takes in nothing more once it is full."""

import numpy as np
import torch
from torch import Tensor

from tests.training.builders import documents
from worker.training.engine.hidden_cache import HiddenStateCache
from worker.training.types import TokenSequence

FIRST, SECOND, THIRD = documents(4, 6, 4)
WIDTH = 8


def computed(document: TokenSequence) -> Tensor:
    return torch.full((len(document.input_ids), WIDTH), float(document.input_ids.sum()))


def forbidden(_document: TokenSequence) -> Tensor:
    raise AssertionError("this text is kept")


def test_a_text_is_computed_once_whatever_of_it_is_scored() -> None:
    cache = HiddenStateCache(10_000)
    once = cache.find(FIRST, computed)
    again = cache.find(TokenSequence(FIRST.input_ids.copy(), np.array([1], np.int32)), forbidden)
    assert torch.equal(once, again)
    assert cache.kept_bytes == 4 * WIDTH * 4


def test_what_does_not_fit_is_computed_every_time_and_pushes_nothing_out() -> None:
    cache = HiddenStateCache(8 * WIDTH * 4)
    for document in (FIRST, SECOND, THIRD):
        cache.find(document, computed)
    assert cache.kept_bytes == 8 * WIDTH * 4
    calls = []
    for document in (FIRST, SECOND, THIRD):
        cache.find(document, lambda one: calls.append(one) or computed(one))  # type: ignore[func-returns-value]
    assert calls == [SECOND]

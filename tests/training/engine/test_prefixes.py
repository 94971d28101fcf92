"""Documents that begin alike share that beginning: nothing is computed twice, and nothing else changes."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.training.builders import documents
from tests.training.models import CONFIGS, adapt, gradients, inner, own_logprobs, random_model
from worker.training.engine.packing import pack_documents
from worker.training.engine.prefixes import LEAST_SHARED, find_segments, group_by_prefix, join_texts
from worker.training.engine.probe import choose_forward
from worker.training.types import TokenSequence

FOREST = st.lists(st.lists(st.integers(0, 2), max_size=40), min_size=1, max_size=12)


def arrays(rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    return [np.array(row, dtype=np.int32) for row in rows]


@given(FOREST)
def test_every_path_spells_its_document_and_no_token_is_added(rows: list[list[int]]) -> None:
    # Repeats of each token make long common prefixes likely.
    ids = [np.repeat(own, LEAST_SHARED // 2) for own in arrays(rows)]
    segments, paths = find_segments(ids, shares=True)
    for own, path in zip(ids, paths, strict=True):
        parts = [ids[segments[index].document][segments[index].start : segments[index].stop] for index in path]
        assert np.concatenate([own[:0], *parts]).tolist() == own.tolist()
        for place, index in enumerate(path):
            assert segments[index].ancestors == path[:place]
    assert sum(s.stop - s.start for s in segments) <= sum(map(len, ids))
    assert all(s.stop > s.start for s in segments)


def test_common_prefixes_are_found_at_every_depth() -> None:
    stem, twig, *tails = documents(20, 10, 5, 6, 7, 30)
    rows = [[stem, twig, tails[0]], [stem, tails[1]], [stem, twig, tails[2]], [tails[3]], [stem, twig, tails[0]]]
    ids = [np.concatenate([part.input_ids for part in parts]) for parts in rows]
    segments, paths = find_segments(ids, shares=True)
    assert [(s.document, s.start, s.stop, s.ancestors) for s in segments] == [
        (0, 0, 20, ()),
        (0, 20, 30, (0,)),
        (0, 30, 35, (0, 1)),
        (2, 30, 37, (0, 1)),
        (1, 20, 26, (0,)),
        (3, 0, 30, ()),
    ]
    assert paths == [(0, 1, 2), (0, 4), (0, 1, 3), (5,), (0, 1, 2)]


def test_prefixes_shorter_than_worth_it_are_not_shared() -> None:
    same = np.arange(LEAST_SHARED - 1, dtype=np.int32)
    ids = [np.append(same, np.int32(token)) for token in (20, 30)]
    assert [(s.document, s.start) for s in find_segments(ids, shares=True)[0]] == [(0, 0), (1, 0)]


@given(FOREST, st.integers(1, 60), st.booleans())
def test_groups_hold_every_document_once_within_the_budget(rows: list[list[int]], budget: int, shares: bool) -> None:
    ids = arrays([row or [0] for row in rows])
    groups = group_by_prefix(ids, budget, shares=shares)
    assert sorted(index for group in groups for index in group) == list(range(len(ids)))
    for group in groups:
        segments, paths = find_segments([ids[index] for index in group], shares=shares)
        # The first segments that every path goes through are what all begin with.
        common = [steps[0] for steps in zip(*paths, strict=False) if len(set(steps)) == 1]
        counted = [s.stop - s.start for index, s in enumerate(segments) if index not in common]
        assert len(group) == 1 or sum(counted) <= budget


def test_documents_that_begin_alike_come_into_the_same_group() -> None:
    stem, other, *tails = documents(30, 40, 5, 5, 5)
    ids = [np.concatenate([stem.input_ids, tail.input_ids]) for tail in tails]
    groups = group_by_prefix([ids[0], other.input_ids, ids[1], other.input_ids + 1, ids[2]], 45, shares=True)
    assert [0, 2, 4] in [sorted(group) for group in groups]


def test_what_all_begin_with_is_not_counted() -> None:
    stem, *tails = documents(500, *[10] * 8, 400)
    ids = [np.concatenate([stem.input_ids, tail.input_ids]) for tail in tails]
    assert [len(group) for group in group_by_prefix(ids[:8], 40, shares=True)] == [4, 4]
    assert len(group_by_prefix(ids[:8], 80, shares=True)) == 1
    assert len(group_by_prefix(ids[:8], 80, shares=False)) == 8
    # Known already, it takes no room for anybody to be spared.
    assert [len(group) for group in group_by_prefix(ids[:8], 40, shares=True, known=[stem.input_ids])] == [4, 4]


def test_groups_are_bounded_by_the_keys_that_their_documents_see() -> None:
    stem, *tails = documents(30, *[2] * 9)
    ids = [np.concatenate([stem.input_ids, tail.input_ids]) for tail in tails]
    assert len(group_by_prefix(ids, 48, shares=True)) == 1
    # Three see 96 tokens and compute 36, four 128 and 38.
    assert [len(group) for group in group_by_prefix(ids, 48, shares=True, keys_per_token=3)] == [3, 3, 3]


def test_joined_texts_hold_a_common_beginning_once() -> None:
    stem, *tails = documents(10, 3, 4)
    first, second = (np.concatenate([stem.input_ids, tail.input_ids]) for tail in tails)
    assert join_texts([first, second], shares=True).tolist() == [*first, *tails[1].input_ids]
    assert join_texts([first, second], shares=False).tolist() == [*first, *second]
    assert join_texts([first], shares=True).tolist() == first.tolist()


def tree(seed: int = 0) -> list[TokenSequence]:
    """Two questions with several contexts and answers each, one document alone, and one twice."""
    first, second, guide, *answers, alone = documents(14, 21, 11, 9, 1, 12, 10, 17, seed=seed)
    parts = [
        (first, answers[0]),
        (second, answers[1]),
        (first, guide, answers[0]),
        (alone,),
        (second, guide, answers[2]),
        (first, guide, answers[3]),
        (second, answers[1]),
    ]
    ids = [np.concatenate([piece.input_ids for piece in pieces]) for pieces in parts]
    # Scored from the second token on, also within prefixes that others share.
    return [TokenSequence(own, np.arange(1, len(own), dtype=np.int32)) for own in ids]


@pytest.mark.parametrize("family", CONFIGS)
def test_shared_equals_separate(family: str) -> None:
    model = inner(adapt(random_model(family)))
    rows = tree()
    probed = choose_forward(model)
    assert probed.limitations == ()
    assert probed.shares
    with torch.inference_mode():
        alone = torch.cat([own_logprobs(model, row) for row in rows])
        with probed.attention():
            found = probed.score(rows)
    torch.testing.assert_close(found.logprobs, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral", "qwen3"])
def test_gradients_through_shared_prefixes_are_exact(family: str) -> None:
    adapted = adapt(random_model(family))
    model, rows = inner(adapted), tree()
    weights = torch.linspace(-1, 2, sum(len(row.scored) for row in rows))

    def gradient_of(logprobs: Tensor) -> dict[str, Tensor]:
        torch.autograd.backward((weights * logprobs).sum())
        return gradients(adapted)

    expected = gradient_of(torch.cat([own_logprobs(model, row) for row in rows]))
    forward = choose_forward(model)
    with forward.attention():
        found = gradient_of(forward.score(rows).logprobs)
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-9, name


def test_a_pack_holds_shared_tokens_once_at_the_positions_of_their_documents() -> None:
    stem, *tails = documents(10, 3, 4)
    rows = [TokenSequence(np.concatenate([stem.input_ids, t.input_ids]), np.array([9, 11], np.int32)) for t in tails]
    pack = pack_documents(rows, torch.device("cpu"), shares=True)
    assert pack.input_ids.tolist() == [[*stem.input_ids, *tails[0].input_ids, *tails[1].input_ids]]
    assert pack.position_ids.tolist() == [[*range(10), 10, 11, 12, 10, 11, 12, 13]]
    assert pack.predicting.tolist() == [8, 10, 8, 13]
    assert pack.targets.tolist() == [row.input_ids[at] for row in rows for at in (9, 11)]
    assert (pack.layout.lengths, pack.layout.boundaries.tolist()) == ((10, 3, 4), [0, 10, 13, 17])
    shared = pack.layout.shared
    assert shared is not None
    assert shared.spans == ((range(10),), (range(13),), (range(10), range(13, 17)))
    assert shared.places.tolist() == [*range(10), *range(13), *range(10), *range(13, 17)]
    assert (shared.boundaries.tolist(), shared.longest) == ([0, 10, 23, 37], 14)

"""How work is shared out, and how equal adapters are known; what takes several processes is in test_parallel above."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.training.engine.parallel import ALONE, Ranks, add_up_gradients, digest, share_out


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 8))
def test_shares_hold_every_piece_once_and_are_balanced(work: list[int], ranks: int) -> None:
    shares = share_out(work, ranks)
    assert sorted(index for share in shares for index in share) == list(range(len(work)))
    assert all(share == sorted(share) for share in shares)
    assert shares == share_out(work, ranks)
    busiest = max(sum(work[index] for index in share) for share in shares)
    least_possible = max(sum(work) / ranks, max(work, default=0))
    assert busiest <= least_possible + (1 - 1 / ranks) * max(work, default=0)


def test_shares_follow_the_work_and_not_the_count() -> None:
    assert share_out([90, 30, 30, 30], 2) == [[0], [1, 2, 3]]
    assert share_out([5], 3) == [[0], [], []]
    assert share_out([4, 8, 6], 1) == [[0, 1, 2]]


def test_digests_tell_values_and_places_apart() -> None:
    tensor = torch.tensor([1.0, 2.0, 3.0])
    assert digest([tensor]) == digest([tensor.clone()])
    assert digest([tensor]) != digest([tensor.flip(0)])
    assert digest([tensor]) != digest([torch.nextafter(tensor, tensor + 1)])
    assert digest([tensor.bfloat16()]) != digest([tensor])
    assert digest([]) == []


def test_one_process_is_a_run_without_others() -> None:
    assert Ranks.from_environment({}).size == Ranks.from_environment({"WORLD_SIZE": "1"}).size == 1
    parameter = torch.nn.Parameter(torch.ones(2))
    add_up_gradients([parameter], ALONE)
    assert parameter.grad is None
    state = torch.get_rng_state()
    ALONE.seed_step(0, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert ALONE.gather(lambda: 5) == [5]
    with pytest.raises(ZeroDivisionError):
        ALONE.agree(lambda: 1 // 0)


def test_the_environment_of_torchrun_says_who_is_who() -> None:
    ranks = Ranks.from_environment({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"})
    assert (ranks.rank, ranks.size, ranks.is_first) == (3, 4, False)
    assert ranks.share([1, 1, 1, 1, 1]) == [3]

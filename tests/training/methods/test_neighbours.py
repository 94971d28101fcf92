import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.training.builders import log_scores
from worker.training.methods.neighbours import find_neighbours
from worker.training.types import TokenScores


def directions(*degrees: float) -> Tensor:
    """Unit vectors in the plane: the cosine distance of two is 1 - cos of the angle between them."""
    radians = [math.radians(angle) for angle in degrees]
    return torch.tensor([[math.cos(angle), math.sin(angle)] for angle in radians])


def tokens(hidden: Tensor, lengths: list[int]) -> TokenScores:
    return log_scores(torch.zeros(len(hidden)), lengths, hidden)


def neighbours(hidden: Tensor, salient: list[int], cluster: str, lengths: list[int] | None = None) -> list[int]:
    mask = torch.zeros(len(hidden), dtype=torch.bool)
    mask[salient] = True
    found = find_neighbours(tokens(hidden, lengths or [len(hidden)]), mask, cluster=cluster, distance=0.4)
    return [int(index) for index in found.nonzero()]


def test_none_finds_nothing_and_needs_no_hidden_states() -> None:
    found = find_neighbours(
        log_scores(torch.zeros(3), [3]), torch.tensor([True, False, False]), cluster="none", distance=0.4
    )
    assert not found.any()


def test_neighbours_without_hidden_states_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden"):
        find_neighbours(log_scores(torch.zeros(1), [1]), torch.tensor([True]), cluster="distance", distance=0.4)


def test_distance_takes_in_what_is_far_and_stops_at_the_first_near_token() -> None:
    # Left of the salient 0 degrees: 90 is far (distance 1) and moves the centre to 45; then 40 is near and stops.
    assert neighbours(directions(170, 40, 90, 0), [3], "distance") == [2]


def test_similarity_takes_in_what_is_near_and_stops_at_the_first_far_token() -> None:
    assert neighbours(directions(20, 100, 10, 0, 30, 120), [3], "similarity") == [2, 4]


def test_the_centre_moves_to_the_mean_with_every_token_taken_in() -> None:
    # 50 is near 0 (distance 0.36), the centre becomes 25, and 75 is near that though far from 0 (distance 0.74).
    assert neighbours(directions(75, 50, 0), [2], "similarity") == [0, 1]


def test_the_walk_to_the_right_continues_with_the_centre_of_the_walk_to_the_left() -> None:
    # The left walk moves the centre to 25; 75 on the right is 50 away from that, but 75 from the salient token itself.
    assert neighbours(directions(50, 0, 75), [1], "similarity") == [0, 2]


def test_a_salient_token_is_walked_through_but_stays_salient() -> None:
    assert neighbours(directions(0, 5, 10, 15), [0, 2], "similarity") == [1, 3]


def test_walks_end_with_their_example() -> None:
    assert neighbours(directions(0, 0, 0, 0), [1], "similarity", lengths=[2, 2]) == [0]


def test_the_distance_of_the_threshold_itself_is_near() -> None:
    hidden = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)  # distance 0.4 up to one rounding
    salient = torch.tensor([True, False])
    found = [
        find_neighbours(tokens(hidden, [2]), salient, cluster=c, distance=0.4 + 1e-12)
        for c in ("distance", "similarity")
    ]
    assert [bool(mask[1]) for mask in found] == [False, True]


@pytest.mark.parametrize("cluster", ["distance", "similarity"])
def test_all_walks_together_equal_one_walk_at_a_time(cluster: str) -> None:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(60, 3, generator=generator)
    lengths = [25, 1, 34]
    salient = torch.rand(60, generator=generator) > 0.7
    expected: set[int] = set()
    for start in salient.nonzero().flatten().tolist():
        expected |= _walk(hidden, lengths, start, far=cluster == "distance")
    found = find_neighbours(tokens(hidden, lengths), salient, cluster=cluster, distance=0.4)
    assert set(found.nonzero().flatten().tolist()) == expected - set(salient.nonzero().flatten().tolist())


def _walk(hidden: Tensor, lengths: list[int], start: int, *, far: bool) -> set[int]:
    bounds = torch.tensor([0, *lengths]).cumsum(0).tolist()
    first, last = next((a, b) for a, b in pairwise(bounds) if a <= start < b)
    centre, taken = hidden[start], set()
    for step in (-1, 1):
        position = start + step
        while first <= position < last:
            distance = 1 - torch.cosine_similarity(centre, hidden[position], dim=0)
            if bool(distance > 0.4) != far:
                break
            taken.add(position)
            centre = (centre + hidden[position]) / 2
            position += step
    return taken

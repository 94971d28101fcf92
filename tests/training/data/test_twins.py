"""Many keys at once are what they are one by one."""

from hypothesis import given
from hypothesis import strategies as st

from worker.training.data.twins import TwinSearch


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=6), st.integers(0, 12))
def test_keys_taken_together_find_the_same_twins(stretches: list[list[int]], most: int) -> None:
    single, together = TwinSearch(most), TwinSearch(most)
    line = 1
    for keys in stretches:
        found = [(number, single.find(key, number)) for number, key in enumerate(keys, line)]
        assert together.find_all(keys, line) == [pair for pair in found if pair[1] is not None]
        line += len(keys)

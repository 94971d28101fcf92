import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.training.builders import documents
from worker.training.engine.packing import group_by_budget, pack_documents


def test_pack_lays_documents_behind_one_another() -> None:
    first, second = documents(4, 3)
    pack = pack_documents([first, second], torch.device("cpu"))
    assert pack.input_ids.tolist() == [[*first.input_ids, *second.input_ids]]
    assert pack.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert pack.predicting.tolist() == [1, 2, 5]
    assert pack.targets.tolist() == [*first.input_ids[2:], second.input_ids[2]]
    assert (pack.layout.lengths, pack.layout.longest) == ((4, 3), 4)
    assert pack.layout.boundaries.tolist() == [0, 4, 7]


@given(st.lists(st.integers(1, 50)), st.integers(1, 100))
def test_groups_cover_everything_in_order_within_the_budget(sizes: list[int], budget: int) -> None:
    groups = list(group_by_budget(sizes, budget))
    assert [index for group in groups for index in group] == list(range(len(sizes)))
    assert all(len(group) == 1 or sum(sizes[index] for index in group) <= budget for group in groups)
    # No group could have taken in the next document.
    for group in groups[:-1]:
        assert sum(sizes[index] for index in (*group, group.stop)) > budget

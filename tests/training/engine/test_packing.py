import torch

from tests.training.builders import documents
from worker.training.engine.packing import pack_documents


def test_pack_lays_documents_behind_one_another() -> None:
    first, second = documents(4, 3)
    pack = pack_documents([first, second], torch.device("cpu"))
    assert pack.input_ids.tolist() == [[*first.input_ids, *second.input_ids]]
    assert pack.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert pack.predicting.tolist() == [1, 2, 5]
    assert pack.targets.tolist() == [*first.input_ids[2:], second.input_ids[2]]
    assert (pack.layout.lengths, pack.layout.longest) == ((4, 3), 4)
    assert pack.layout.boundaries.tolist() == [0, 4, 7]

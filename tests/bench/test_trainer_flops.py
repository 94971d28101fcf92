import numpy as np
import pytest
import torch
from peft import get_peft_model
from torch.utils.flop_counter import FlopCounterMode

from bench.trainer import gemm
from bench.trainer.flops import Document, Shape, Work, documents, scored, trained
from bench.trainer.loops import lora_config
from bench.trainer.points import POINTS, ROWS, make_rows
from bench.trainer.record import needed
from bench.trainer.variants import VARIANTS
from worker.training.types import TokenSequence

TINY = POINTS["tiny"]
# A layer has q and o of 32 x 32, k and v of 32 x 16, gate, up and down of 32 x 64.
LAYER = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
SHAPE = Shape.of(TINY.model_config(), rank=4)


def test_shape_of_a_configuration() -> None:
    assert (SHAPE.body, SHAPE.head) == (2 * LAYER, 32 * 256)
    assert SHAPE.adapter == 2 * 4 * (2 * 64 + 2 * 48 + 3 * 96)
    assert (SHAPE.layers, SHAPE.attention_width) == (2, 32)


def test_research_configuration_has_the_published_size() -> None:
    shape = Shape.of(POINTS["bench"].model_config(), rank=16)
    assert shape.body + 2 * shape.head == 56_360_960  # with the embeddings, without the norms
    assert shape.adapter == 1_196_032


def test_scoring_counts_by_hand() -> None:
    assert scored(SHAPE, [Document(10, 3)], with_adapter=False) == Work(
        body=2 * 2 * LAYER * 10, head=2 * 8192 * 3, attention=2 * 100 * 32 * 2, adapter=0
    )
    assert scored(SHAPE, [Document(10, 3)], with_adapter=True).adapter == 2 * SHAPE.adapter * 10


def test_training_counts_by_hand() -> None:
    assert trained(SHAPE, [Document(10, 3), Document(5, 1)]) == Work(
        body=4 * 2 * LAYER * 15, head=4 * 8192 * 4, attention=6 * 125 * 32 * 2, adapter=6 * SHAPE.adapter * 15
    )


def test_layers_below_the_adapted_ones_count_forward_or_not_at_all() -> None:
    whole = trained(SHAPE, [Document(10, 3)])
    upper = trained(SHAPE, [Document(10, 3)], adapted=0.5)
    assert upper == Work(whole.body * 3 // 4, whole.head, whole.attention * 2 // 3, whole.adapter // 2)
    kept = trained(SHAPE, [Document(10, 3)], adapted=0.5, begins_there=True)
    assert kept == Work(whole.body // 2, whole.head, whole.attention // 2, whole.adapter // 2)


def sequence(ids: list[int]) -> TokenSequence:
    return TokenSequence(np.array(ids, np.int32), np.array([len(ids) - 1], np.int32))


def test_a_common_beginning_counts_once() -> None:
    three = [sequence([1, 2, 3, 4]), sequence([9, 9]), sequence([1, 2, 5])]
    assert sorted(documents(three, shares=True), key=lambda one: (one.tokens, one.reused)) == [
        Document(2, 1, 0),
        Document(3, 1, 2),
        Document(4, 1, 0),
    ]
    assert documents(three, shares=False) == [Document(4, 1), Document(2, 1), Document(3, 1)]
    assert documents(three[:1], shares=True, known=three[1:]) == [Document(4, 1, 2)]
    # Four tokens see 1 + 2 + 3 + 4 pairs; the third sequence adds the three of its last token.
    shared = scored(SHAPE, [Document(4, 1), Document(3, 1, reused=2)], with_adapter=False)
    assert shared.attention == 2 * (16 + 9 - 4) * 32 * 2


def test_agrees_with_the_counter_of_torch() -> None:
    model = get_peft_model(TINY.load(), lora_config())
    model.set_attn_implementation("eager")
    model.enable_input_require_grads()  # the model counts the first layer's input gradient as well
    ids = torch.arange(64).unsqueeze(0)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    counted = trained(Shape.of(TINY.model_config(), rank=16), [Document(64, 64)])
    whole_attention = 2 * counted.attention  # eager attention computes what causality then masks
    assert counter.get_total_flops() == pytest.approx(counted.total + whole_attention - counted.attention, rel=0.02)


def test_made_rows_have_the_sizes_of_the_research() -> None:
    rows = make_rows(ROWS, vocabulary=32_000)
    base = [len(row.sequences["base"].input_ids) for row in rows]
    contexts = [
        len(row.sequences[name].input_ids)
        for row in rows
        for name in ("reference", "judgment")
        if name in row.sequences
    ]
    assert (sum(base), max(base) * len(base), sum(contexts)) == (1602, 2220, 3256)
    assert sum(len(row.sequences["base"].scored) for row in rows) == 825
    assert [row.values["right"] for row in rows] == [1, 0, 1, 0, 1, 0]


def test_predicted_ratios_are_those_of_the_research() -> None:
    point = POINTS["bench"]
    shape, rows = Shape.of(point.model_config(), rank=16), point.rows()
    work = {
        name: needed(shape, rows, VARIANTS[name]).total
        for name in ("supervised", "nlft_online", "nlft_shared", "nlft_lent", "scoring")
    }
    assert work["nlft_online"] / work["supervised"] == pytest.approx(1.94, abs=0.03)
    assert work["nlft_shared"] / work["supervised"] == pytest.approx(1.86, abs=0.03)
    assert work["nlft_lent"] / work["supervised"] == pytest.approx(1.67, abs=0.03)
    assert work["nlft_shared"] == work["supervised"] + work["scoring"]


def test_products_are_those_of_a_micro_batch() -> None:
    counts = gemm.products(TINY)
    assert counts[1024, 32, 64] == 2 * 2 + 2 * 1  # forward: gate and up; back: down, in two layers
    assert counts[1024 * 825 // 1602, 32, 256] == 1
    assert gemm.operations({(2, 3, 4): 5}) == 2 * 2 * 3 * 4 * 5

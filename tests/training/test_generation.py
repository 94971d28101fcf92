from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.fixtures.tiny_models import FAMILIES, VOCABULARY, TinyModel, reference_to
from worker.training.generation import _LEAST_COMMON, Decoding, Generated, _nucleus, generate
from worker.training.model.base_model import LoadedModel, load_base_model
from worker.training.spec import RuntimeSettings

WINDOWED = ("gemma2", "gemma3_text")
STOP_IDS = frozenset(range(0, VOCABULARY, 16))  # a random model rarely picks one token; one in sixteen it does


def load(folder: Path) -> LoadedModel:
    return load_base_model(reference_to(folder), RuntimeSettings(device="cpu", dtype="float32"))


def some_prompts(count: int) -> list[NDArray[np.int32]]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, VOCABULARY, size=int(rng.integers(2, 40)), dtype=np.int32) for _ in range(count)]


def one_by_one(loaded: LoadedModel, prompts: list[NDArray[np.int32]], limit: int) -> list[Generated]:
    """Greedy decoding as the definition has it: no batch, no padding, no cache."""
    answers = []
    for prompt in prompts:
        ids, is_finished = prompt.tolist(), False
        while len(ids) < len(prompt) + limit and not is_finished:
            with torch.inference_mode():
                token = int(loaded.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            is_finished = token in STOP_IDS
            ids += [] if is_finished else [token]
        answers.append(Generated(ids[len(prompt) :], is_finished))
    return answers


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_answers_equal_those_made_one_by_one(tiny_model: TinyModel, family: str) -> None:
    loaded, prompts = load(tiny_model(family)), some_prompts(12)
    answers = generate(loaded.model, prompts, STOP_IDS, Decoding(24, batch_size=8))
    assert answers == one_by_one(loaded, prompts, 24)


@pytest.mark.parametrize(("family", "samples"), [*((family, 1) for family in FAMILIES), ("llama", 2)])
def test_what_all_prompts_begin_with_is_computed_once(tiny_model: TinyModel, family: str, samples: int) -> None:
    loaded = load(tiny_model(family))
    instructions = np.random.default_rng(1).integers(3, VOCABULARY, size=_LEAST_COMMON + 6, dtype=np.int32)
    prompts = [np.concatenate([instructions, prompt]) for prompt in some_prompts(6)]
    expected = one_by_one(loaded, prompts, 8)
    shapes: list[tuple[int, ...]] = []
    handle = loaded.model.get_input_embeddings().register_forward_pre_hook(
        lambda _module, inputs: shapes.append(tuple(inputs[0].shape))
    )
    answers = generate(loaded.model, prompts, STOP_IDS, Decoding(8, batch_size=6 * samples, samples=samples))
    handle.remove()
    assert answers == [answer for answer in expected for _ in range(samples)]
    longest = max(map(len, prompts))
    begun = [(6, longest)] if family in WINDOWED else [(1, len(instructions)), (6, longest - len(instructions))]
    assert shapes[: len(begun) + 1] == [*begun, (6 * samples, 1)]


def test_a_beginning_is_left_to_its_prompts_where_it_is_short_or_all_of_one(tiny_model: TinyModel) -> None:
    loaded = load(tiny_model())
    whole = np.random.default_rng(1).integers(3, VOCABULARY, size=_LEAST_COMMON + 1, dtype=np.int32)
    for prompts in ([whole, whole[:-2]], [whole[:9], np.append(whole[:9], whole[:4])], [whole, whole], [whole]):
        assert generate(loaded.model, prompts, STOP_IDS, Decoding(8)) == one_by_one(loaded, prompts, 8)


def test_some_answers_finish_early_and_some_are_cut(tiny_model: TinyModel) -> None:
    answers = generate(load(tiny_model()).model, some_prompts(12), STOP_IDS, Decoding(24, batch_size=8))
    assert {answer.is_finished for answer in answers} == {True, False}
    assert all(len(answer.ids) == 24 for answer in answers if not answer.is_finished)
    assert not STOP_IDS.intersection(token for answer in answers for token in answer.ids)


def test_sampling_repeats_with_its_seed(tiny_model: TinyModel) -> None:
    model, prompts = load(tiny_model()).model, some_prompts(6)
    first, again, other = (
        generate(model, prompts, STOP_IDS, Decoding(8, temperature=1.0, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_progress_ends_with_all_answers_done(tiny_model: TinyModel) -> None:
    seen: list[tuple[int, int]] = []
    every_token = frozenset(range(VOCABULARY))
    generate(
        load(tiny_model()).model,
        some_prompts(5),
        every_token,
        Decoding(4, batch_size=2),
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_progress_may_give_up(tiny_model: TinyModel) -> None:
    class EnoughError(Exception):
        pass

    def refuse(_done: int, _total: int) -> None:
        raise EnoughError

    with pytest.raises(EnoughError):
        generate(load(tiny_model()).model, some_prompts(2), STOP_IDS, Decoding(4), on_progress=refuse)


def test_no_prompts_no_answers(tiny_model: TinyModel) -> None:
    assert generate(load(tiny_model()).model, [], STOP_IDS, Decoding(4)) == []


def test_prompt_and_answer_stay_within_the_context(tiny_model: TinyModel) -> None:
    model = load(tiny_model("gpt2")).model
    prompts = [np.full(length, 5, np.int32) for length in (512, 510, 3)]
    limited = Decoding(8, batch_size=1, context_length=512)
    answers = generate(model, prompts, frozenset(), limited)
    assert [len(answer.ids) for answer in answers] == [0, 2, 8]


def test_samples_of_a_prompt_stand_together_and_share_its_prompt(tiny_model: TinyModel) -> None:
    loaded, prompts = load(tiny_model()), some_prompts(5)
    answers = generate(loaded.model, prompts, STOP_IDS, Decoding(16, batch_size=6, samples=3))
    assert answers == [answer for answer in one_by_one(loaded, prompts, 16) for _ in range(3)]
    drawn = generate(loaded.model, prompts, STOP_IDS, Decoding(16, batch_size=6, samples=3, temperature=1.0))
    assert any(drawn[start] != drawn[start + 1] for start in range(0, 15, 3))


def test_progress_counts_samples(tiny_model: TinyModel) -> None:
    seen: list[tuple[int, int]] = []
    decoding = Decoding(4, batch_size=4, samples=2)
    generate(
        load(tiny_model()).model,
        some_prompts(3),
        frozenset(range(VOCABULARY)),
        decoding,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(4, 6), (6, 6)]


@pytest.mark.parametrize("family", [*WINDOWED, "gpt2"])
def test_samples_work_with_windowed_caches(tiny_model: TinyModel, family: str) -> None:
    loaded, prompts = load(tiny_model(family)), some_prompts(4)
    answers = generate(loaded.model, prompts, STOP_IDS, Decoding(24, batch_size=8, samples=2))
    assert answers == [answer for answer in one_by_one(loaded, prompts, 24) for _ in range(2)]


@pytest.mark.parametrize("width", [4, 3000])
def test_a_nucleus_holds_the_fewest_likeliest_tokens(width: int) -> None:
    probabilities = torch.rand(5, width, generator=torch.Generator().manual_seed(0)).softmax(-1)
    kept = _nucleus(probabilities, 0.6)
    for row, left in zip(probabilities, kept, strict=True):
        ordered = row.sort(descending=True).values
        count = int((ordered.cumsum(0) < 0.6).sum()) + 1
        assert sorted(left[left > 0].tolist(), reverse=True) == ordered[:count].tolist()


def test_a_tiny_nucleus_takes_the_likeliest_token(tiny_model: TinyModel) -> None:
    loaded, prompts = load(tiny_model()), some_prompts(4)
    narrow = generate(loaded.model, prompts, STOP_IDS, Decoding(12, temperature=1.0, top_p=1e-6))
    assert narrow == generate(loaded.model, prompts, STOP_IDS, Decoding(12))

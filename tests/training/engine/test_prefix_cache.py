"""What the pass with gradient has computed of a prompt serves scoring: fewer tokens, the same figures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from tests.training.builders import documents
from tests.training.engine.prepared import BUDGET, GradientKeeper, limit_activations, limit_memory
from tests.training.models import CONFIGS, adapt, gradients, inner, own_logprobs, random_model
from worker.training.engine.memory import MemoryRung
from worker.training.engine.packing import pack_documents
from worker.training.engine.prefix_cache import PrefixCache
from worker.training.engine.prefixes import LEAST_SHARED, group_by_prefix
from worker.training.engine.prepared import PreparedExample
from worker.training.engine.probe import choose_forward
from worker.training.engine.scoring import Scorer
from worker.training.engine.step import Stepper
from worker.training.methods.nlft import NLFT, NLFTHyperparameters
from worker.training.types import LossOutput, RenderedExample, ScoringPass, TokenSequence

CPU = torch.device("cpu")
PROMPT, OTHER_PROMPT, GUIDE, *ANSWERS = documents(14, 21, 11, 9, 12, 10, 3)
HYPERPARAMETERS = {
    "without hindsight": NLFTHyperparameters(scoring="online"),
    "with hindsight and neighbours": NLFTHyperparameters(scoring="online", hindsight_weight=1.0, cluster="similarity"),
}


def spell(*pieces: TokenSequence, scored: int) -> TokenSequence:
    """Return the pieces as one text whose last ``scored`` tokens are scored."""
    ids = np.concatenate([piece.input_ids for piece in pieces])
    return TokenSequence(ids, np.arange(len(ids) - scored, len(ids), dtype=np.int32))


TRAINED = [
    spell(PROMPT, ANSWERS[0], scored=9),
    spell(OTHER_PROMPT, ANSWERS[1], scored=12),
    spell(PROMPT, ANSWERS[2], scored=10),
]
BEHIND = [
    spell(PROMPT, GUIDE, ANSWERS[0], scored=9),
    spell(PROMPT, GUIDE, ANSWERS[2], scored=10),
    spell(OTHER_PROMPT, GUIDE, ANSWERS[1], scored=12),
    spell(GUIDE, ANSWERS[1], scored=12),  # begins like none
    spell(PROMPT, ANSWERS[0], scored=9),  # is one of them
    spell(PROMPT, ANSWERS[0], ANSWERS[3], scored=7),  # its first scored tokens are one's last
    spell(OTHER_PROMPT, scored=0),  # is the beginning of one, and asks for nothing
]


@contextmanager
def computed_tokens(model: nn.Module) -> Iterator[list[int]]:
    """Yield a list that receives the tokens of every pass inside."""
    found: list[int] = []
    layer = model.get_input_embeddings()  # type: ignore[operator] # a model of transformers
    handle = layer.register_forward_hook(lambda _module, inputs, _output: found.append(inputs[0].shape[1]))
    yield found
    handle.remove()


@pytest.mark.parametrize("family", CONFIGS)
def test_going_on_behind_a_pass_gives_the_models_own_logprobs(family: str) -> None:
    model = inner(adapt(random_model(family)))
    forward = choose_forward(model, lends=True)
    assert forward.limitations == ()
    assert forward.lends
    cache = PrefixCache()
    with forward.attention(), computed_tokens(model) as tokens:
        trained = forward.score(TRAINED, into=cache)
        with torch.inference_mode():
            found = forward.score(BEHIND, behind=cache).logprobs
        torch.autograd.backward(trained.logprobs.sum())
    with torch.inference_mode():
        expected = torch.cat([own_logprobs(model, row) for row in BEHIND])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    # Guidance once a prompt with the answers behind it, a text that begins like none, and whole trained texts where
    # the last token of their prompt is asked for.
    computed = (11 + 9 + 10) + (11 + 12) + (11 + 12) + (14 + 9 + 3) + 21
    assert tokens == [14 + 9 + 10 + 21 + 12, computed]


def test_a_pack_behind_a_cache_holds_the_rest_alone() -> None:
    first = pack_documents(TRAINED[1:], CPU, shares=True)
    cache = PrefixCache()
    cache.complete(TRAINED[1:], first)
    pack = pack_documents([BEHIND[0]], CPU, shares=True, behind=cache)
    assert pack.input_ids.tolist() == [[*GUIDE.input_ids, *ANSWERS[0].input_ids]]
    assert pack.position_ids.tolist() == [[*range(14, 34)]]
    assert pack.predicting.tolist() == [*range(10, 19)]
    assert pack.targets.tolist() == [*ANSWERS[0].input_ids]
    assert pack.places[0].tolist() == [*range(20)]
    shared = pack.layout.shared
    assert shared is not None
    assert (shared.cached, shared.spans) == (57, ((range(33, 47), range(57, 77)),))
    assert shared.places.tolist() == [*range(33, 47), *range(57, 77)]


def test_a_pack_that_begins_like_nothing_in_the_cache_does_without_it() -> None:
    cache = PrefixCache()
    cache.complete(TRAINED, pack_documents(TRAINED, CPU, shares=True))
    shared = pack_documents(BEHIND[3:5], CPU, shares=True, behind=cache).layout.shared
    assert shared is None or shared.cached == 0


def test_what_a_cache_holds_takes_no_room_in_a_micro_batch() -> None:
    known = [text.input_ids for text in TRAINED]
    ids = [text.input_ids for text in BEHIND[:4]]
    assert len(ids[0]) + len(ids[3]) == 57
    (group,) = group_by_prefix(ids, 76, shares=True, known=known)
    assert sorted(group) == [0, 1, 2, 3]
    assert len(group_by_prefix(ids, 75, shares=True, known=known)) == 2
    assert len(group_by_prefix(ids, 76, shares=True)) == 2


def rows() -> list[PreparedExample]:
    """Return two right rows and a wrong one as NLFT renders them: guidance behind the question."""
    return [
        PreparedExample(1, _render(PROMPT, ANSWERS[0], right=True)),
        PreparedExample(2, _render(OTHER_PROMPT, ANSWERS[1], right=False)),
        PreparedExample(3, _render(PROMPT, ANSWERS[2], right=True)),
    ]


def _render(prompt: TokenSequence, answer: TokenSequence, *, right: bool) -> RenderedExample:
    contexts: dict[str, Sequence[TokenSequence]] = {"base": (), "reference": (GUIDE,)}
    if not right:
        contexts["judgment"] = (ANSWERS[3], GUIDE)
    sequences = {
        name: spell(prompt, *guidance, answer, scored=len(answer.input_ids)) for name, guidance in contexts.items()
    }
    return RenderedExample(sequences, {"right": float(right)})


def step(
    chosen: NLFTHyperparameters, *, lends: bool, budget: int = BUDGET, **adapter: Any
) -> tuple[Mapping[str, Tensor], LossOutput, Mapping[str, Tensor], list[int]]:
    """Return log-probabilities, loss and gradients of a step, and the tokens of its passes."""
    adapted = adapt(random_model("llama"), **adapter)
    passes = NLFT().passes(chosen)
    scorer = Scorer(adapted, micro_batch_tokens=budget, passes=passes if lends else ())
    with scorer.attention(), computed_tokens(inner(adapted)) as tokens:
        batch, _ = scorer.score(rows(), passes)
        output = NLFT().loss(batch, chosen)
        scorer.backward(output.losses.sum())
    logprobs = {name: scores.logprobs.detach() for name, scores in batch.passes.items()}
    return logprobs, output, gradients(adapted), tokens


@pytest.mark.parametrize("budget", [1, 40, BUDGET])
@pytest.mark.parametrize("chosen", HYPERPARAMETERS.values(), ids=HYPERPARAMETERS.keys())
def test_a_step_that_goes_on_behind_training_is_the_step_of_separate_passes(
    chosen: NLFTHyperparameters, budget: int
) -> None:
    logprobs, output, gradient, tokens = step(chosen, lends=True, budget=budget)
    expected_logprobs, expected, expected_gradient, all_tokens = step(chosen, lends=False, budget=budget)
    for name, found in logprobs.items():
        torch.testing.assert_close(found, expected_logprobs[name], rtol=0, atol=1e-5)
    torch.testing.assert_close(output.losses, expected.losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.token_weights, expected.token_weights, rtol=1e-5, atol=1e-6)
    assert gradient.keys() == expected_gradient.keys()
    for name, one in expected_gradient.items():
        assert (gradient[name] - one).norm() <= 1e-5 * one.norm() + 1e-9, name
    assert sum(tokens) < sum(all_tokens)


def _passes_in_turn(scorer: Scorer, adapted: PeftModel, passes: Sequence[ScoringPass]) -> list[bool]:
    """Return which of the passes of a step kept a graph, in their order."""
    graphs: list[bool] = []
    last = inner(adapted).base_model
    handle = last.register_forward_hook(lambda _module, _inputs, output: graphs.append(output[0].requires_grad))
    with scorer.attention():
        scorer.score(rows(), passes)
    handle.remove()
    return graphs


ONLINE = NLFT().passes(NLFTHyperparameters(scoring="online"))
BARE = (ScoringPass("plain", "base", with_adapter=False), *ONLINE)


def test_passes_of_the_bare_base_come_first_and_borrow_nothing() -> None:
    adapted = adapt(random_model("llama"))
    scorer = Scorer(adapted, micro_batch_tokens=BUDGET, passes=BARE)
    assert _passes_in_turn(scorer, adapted, BARE) == [False, True, False]
    with scorer.attention():
        found = scorer.score(rows(), BARE)[0].passes["plain"].logprobs
        expected = scorer.measure(rows(), BARE[:1]).passes["plain"].logprobs
    assert torch.equal(found, expected)


def test_dropout_keeps_passes_apart() -> None:
    adapted = adapt(random_model("llama"), dropout=0.1)
    scorer = Scorer(adapted, micro_batch_tokens=BUDGET, passes=ONLINE)
    assert _passes_in_turn(scorer, adapted, ONLINE) == [False, True]


def test_checkpointed_layers_keep_passes_apart() -> None:
    adapted = adapt(random_model("llama"))
    scorer = Scorer(adapted, micro_batch_tokens=BUDGET, passes=ONLINE)
    scorer.memory.checkpoint_layers(1)
    assert _passes_in_turn(scorer, adapted, ONLINE) == [False, True]


def stepped(
    limit: Callable[[PeftModel], AbstractContextManager[Any] | None], chosen: NLFTHyperparameters
) -> tuple[MemoryRung, Mapping[str, Tensor]]:
    """Return where memory stands after a step within ``limit``, and the gradient of the step."""
    adapted = adapt(random_model("llama"))
    scorer = Scorer(adapted, micro_batch_tokens=66, passes=NLFT().passes(chosen))
    keeper = GradientKeeper(adapted, chosen, total_steps=1)
    with scorer.attention(), limit(adapted) or nullcontext():
        Stepper(scorer, NLFT(), chosen).train(rows(), keeper, 1, lambda: None)
    return scorer.memory.rung, gradients(adapted)


@pytest.mark.parametrize(
    ("limit", "rung"),
    [
        (lambda adapted: limit_memory(adapted, 50), MemoryRung(33, 0)),
        (lambda adapted: limit_activations(adapted, 250_000), MemoryRung(33, 0)),
        (lambda adapted: limit_activations(adapted, 120_000), MemoryRung(16, 1)),
        (lambda adapted: limit_activations(adapted, 80_000), MemoryRung(16, 2)),
    ],
)
def test_short_memory_ends_in_the_same_gradient(limit: Any, rung: MemoryRung) -> None:
    chosen = NLFTHyperparameters(scoring="online", max_grad_norm=0.0)
    _, expected = stepped(lambda _: None, chosen)
    found_rung, found = stepped(limit, chosen)
    assert found_rung == rung
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-9, name


def test_models_that_share_nothing_lend_nothing() -> None:
    adapted = adapt(random_model("llama"))
    scorer = Scorer(adapted, micro_batch_tokens=BUDGET, shares_prefixes=False, passes=ONLINE)
    assert _passes_in_turn(scorer, adapted, ONLINE) == [False, True]


def test_a_method_that_scores_nothing_beside_training_probes_nothing() -> None:
    adapted = adapt(random_model("llama"))
    runs = []
    inner(adapted).get_input_embeddings().register_forward_hook(lambda *_: runs.append(1))
    frozen = NLFT().passes(NLFTHyperparameters(scoring="frozen"))
    counts = []
    for passes in (frozen, ONLINE):
        runs.clear()
        Scorer(adapted, micro_batch_tokens=BUDGET, passes=passes)
        counts.append(len(runs))
    assert counts[1] == counts[0] + 2


def test_cached_keys_that_a_model_cannot_use_are_told_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    prepend = PrefixCache.prepend

    def turned(cache: PrefixCache, layer: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = prepend(cache, layer, key, value)
        return keys.flip(-1), values

    monkeypatch.setattr(PrefixCache, "prepend", turned)
    probed = choose_forward(random_model("llama"), lends=True)
    assert probed.shares
    assert not probed.lends
    (limitation,) = probed.limitations
    assert "cannot serve scoring" in limitation
    assert "the model's own logits" in limitation


def test_a_short_beginning_is_computed_again() -> None:
    short = TokenSequence(PROMPT.input_ids[: LEAST_SHARED - 1], np.array([2], np.int32))
    cache = PrefixCache()
    cache.complete([short], pack_documents([short], CPU, shares=True))
    pack = pack_documents(BEHIND[:1], CPU, shares=True, behind=cache)
    assert pack.input_ids.shape[1] == len(BEHIND[0].input_ids)

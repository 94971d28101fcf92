"""What leaves the frozen layers is computed once for a text: the same figures and gradients from fewer layers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from tests.training.builders import documents
from tests.training.engine.prepared import BUDGET, completions
from tests.training.engine.test_prefix_cache import ANSWERS, BEHIND, ONLINE, OTHER_PROMPT, PROMPT, TRAINED, rows, spell
from tests.training.models import CONFIGS, adapt, gradients, inner, own_logprobs, random_model
from worker.training.engine.forward import Forward
from worker.training.engine.frozen_layers import FrozenLayers
from worker.training.engine.hidden_cache import HiddenStateCache
from worker.training.engine.prefix_cache import PrefixCache
from worker.training.engine.probe import choose_forward
from worker.training.engine.scoring import Scorer
from worker.training.methods.nlft import NLFT, NLFTHyperparameters
from worker.training.model.decoder_layers import find_decoder_layers
from worker.training.types import ScoringPass, TokenSequence

PLENTY = 2**30
ALIKE = [spell(PROMPT, ANSWERS[0], scored=9), spell(PROMPT, ANSWERS[1], scored=12), spell(OTHER_PROMPT, scored=5)]
TRAIN = ScoringPass("completion", "completion", with_grad=True)


def upper(family: str = "llama", **adapter: Any) -> PeftModel:
    """Return a model of two decoder layers with an adapter in the upper one."""
    return adapt(random_model(family), layers_to_transform=[-1], **adapter)


def keep(size: int) -> HiddenStateCache | None:
    return HiddenStateCache(size) if size else None


@contextmanager
def lowest_layer_runs(adapted: PeftModel) -> Iterator[list[int]]:
    """Yield a list that receives the tokens of every run of the lowest decoder layer inside."""
    found: list[int] = []
    attention = next(
        module for name, module in find_decoder_layers(adapted)[0].named_children() if name in {"self_attn", "attn"}
    )
    handle = attention.register_forward_pre_hook(
        lambda _module, inputs, named: found.append((inputs[0] if inputs else named["hidden_states"]).shape[1]),
        with_kwargs=True,
    )
    yield found
    handle.remove()


def trained(
    forward: Forward, adapted: PeftModel, rows: Sequence[TokenSequence], known: HiddenStateCache | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the log-probabilities of ``rows``, and the gradient of their sum."""
    with forward.attention():
        logprobs = forward.score(rows, known=known).logprobs
        torch.autograd.backward(logprobs.sum())
    return logprobs.detach(), gradients(adapted)


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-9, name


@pytest.mark.parametrize("family", CONFIGS)
def test_kept_hidden_states_give_the_models_own_figures(family: str) -> None:
    adapted = upper(family)
    forward = choose_forward(inner(adapted), caches=True)
    assert forward.limitations == ()
    known = HiddenStateCache(PLENTY)
    plain, plain_gradient = trained(replace(forward, frozen=None), adapted, ALIKE, None)
    with lowest_layer_runs(adapted) as runs:
        computed, first = trained(forward, adapted, ALIKE, known)
        assert runs == [23, 26, 21]  # each by itself, whatever they begin with
        recalled, second = trained(forward, adapted, ALIKE, known)
        assert len(runs) == 3
    with torch.inference_mode():
        expected = torch.cat([own_logprobs(inner(adapted), row) for row in ALIKE])
    torch.testing.assert_close(computed, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(computed, plain, rtol=0, atol=1e-5)
    assert_close(first, plain_gradient)
    assert torch.equal(recalled, computed)
    assert all(torch.equal(second[name], gradient) for name, gradient in first.items())


@pytest.mark.parametrize("dropout", [0.0, 0.3], ids=["plain", "dropout"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_a_text_by_itself_comes_out_the_same_to_the_last_bit(family: str, dropout: float) -> None:
    adapted = upper(family, dropout=dropout)
    row = completions(21)
    found = []
    scorers = [Scorer(adapted, micro_batch_tokens=BUDGET, hidden_states=keep(size)) for size in (0, PLENTY)]
    for scorer in (*scorers, scorers[1]):
        torch.manual_seed(5)
        with scorer.attention():
            logprobs = scorer.score(row, [TRAIN])[0].passes["completion"].logprobs
            scorer.backward(logprobs.sum())
        found.append((logprobs.detach(), gradients(adapted)))
    (expected, wanted), *others = found
    for logprobs, gradient in others:
        assert torch.equal(logprobs, expected)
        assert all(torch.equal(gradient[name], one) for name, one in wanted.items())


def test_half_precision_is_kept_as_it_is_computed() -> None:
    model = random_model("llama")
    model.to(dtype=torch.bfloat16)  # type: ignore[call-arg] # transformers' wrapper loses `self`
    adapted = adapt(model, layers_to_transform=[-1])
    scorer = Scorer(adapted, micro_batch_tokens=BUDGET, hidden_states=keep(PLENTY))
    assert scorer.limitations == ()
    with scorer.attention():
        scorer.score(completions(9, 14), [TRAIN])
    assert scorer.hidden_state_bytes == (9 + 14) * 32 * 2


def test_layers_above_can_be_checkpointed() -> None:
    adapted = upper()
    scorer = Scorer(adapted, micro_batch_tokens=BUDGET, hidden_states=keep(PLENTY))
    found = []
    for count in (0, 1):
        scorer.memory.checkpoint_layers(count)
        with scorer.attention():
            scorer.backward(scorer.score(completions(9, 14), [TRAIN])[0].passes["completion"].logprobs.sum())
        found.append(gradients(adapted))
    assert all(torch.equal(found[1][name], one) for name, one in found[0].items())


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_scoring_goes_on_behind_training_as_well(family: str) -> None:
    adapted = upper(family)
    forward = choose_forward(inner(adapted), lends=True, caches=True)
    assert (forward.limitations, forward.lends) == ((), True)
    states = HiddenStateCache(PLENTY)
    with torch.inference_mode():
        expected = torch.cat([own_logprobs(inner(adapted), row) for row in BEHIND])
    for _ in range(2):
        cache = PrefixCache()
        with forward.attention():
            forward.score(TRAINED, into=cache, known=states)
            with torch.inference_mode():
                found = forward.score(BEHIND, behind=cache, known=states).logprobs
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("budget", [1, 40, BUDGET])
def test_a_step_of_a_method_is_the_same_cold_warm_and_without(budget: int) -> None:
    chosen = NLFTHyperparameters(scoring="online", hindsight_weight=1.0, cluster="similarity")
    found = []
    for size in (0, 5000, PLENTY):
        adapted = upper()
        scorer = Scorer(adapted, micro_batch_tokens=budget, passes=ONLINE, hidden_states=keep(size))
        for _ in range(2):
            with scorer.attention():
                output = NLFT().loss(scorer.score(rows(), NLFT().passes(chosen))[0], chosen)
                scorer.backward(output.losses.sum())
            found.append((output.losses.detach(), gradients(adapted)))
        assert (scorer.hidden_state_bytes > 0, scorer.hidden_state_bytes <= size) == (size > 0, True)
    (losses, gradient), _, computed, *others = found
    torch.testing.assert_close(computed[0], losses, rtol=1e-5, atol=1e-6)
    assert_close(computed[1], gradient)
    # Whether a text is kept, or found to be, or there is no room for it: to the last bit.
    for other in others:
        assert torch.equal(other[0], computed[0])
        assert all(torch.equal(other[1][name], one) for name, one in computed[1].items())


def test_texts_that_are_scored_once_take_no_room() -> None:
    scorer = Scorer(upper(), micro_batch_tokens=BUDGET, hidden_states=keep(PLENTY))
    once, renewed = (
        NLFT().passes(NLFTHyperparameters.model_validate({"scoring": scoring})) for scoring in ("frozen", "epoch")
    )
    with scorer.attention():
        scorer.fill_cache(rows(), once, lambda _done, _total: None)
        assert scorer.hidden_state_bytes == 0
        scorer.fill_cache(rows(), renewed, lambda _done, _total: None)
    assert scorer.hidden_state_bytes > 0


def test_outside_of_scoring_the_model_runs_as_it_was_loaded() -> None:
    adapted = upper()
    own = [layer.forward for layer in find_decoder_layers(adapted)]
    scorer = Scorer(adapted, micro_batch_tokens=BUDGET, hidden_states=keep(PLENTY))
    with scorer.attention():
        scorer.score(completions(9), [TRAIN])
    assert [layer.forward for layer in find_decoder_layers(adapted)] == own


def _train_embeddings(adapted: PeftModel) -> None:
    inner(adapted).get_input_embeddings().weight.requires_grad_()


def _spread(adapted: PeftModel) -> None:
    layer = find_decoder_layers(adapted)[0]
    layer.__class__ = type("Spread", (FSDPModule, type(layer)), {})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(_train_embeddings, "weights outside of its decoder layers are trained"), (_spread, "spread over several")],
)
def test_what_cannot_be_passed_over_is_said_and_run(spoil: Callable[[PeftModel], None], reason: str) -> None:
    adapted = upper()
    spoil(adapted)
    probed = choose_forward(inner(adapted), caches=True)
    assert probed.frozen is None
    assert reason in probed.limitations[-1]


def test_an_adapter_in_the_lowest_layer_leaves_nothing_to_keep() -> None:
    for chosen in ("all", [0]):
        scorer = Scorer(
            adapt(random_model("llama"), layers_to_transform=chosen),
            micro_batch_tokens=BUDGET,
            hidden_states=keep(PLENTY),
        )
        (limitation,) = scorer.limitations
        assert "no frozen decoder layer below a trained one" in limitation


def test_layers_that_return_more_than_hidden_states_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = upper()
    lowest = find_decoder_layers(adapted)[0]
    frozen = FrozenLayers.of(inner(adapted))
    monkeypatch.setattr(type(lowest), "forward", lambda _self, hidden, **_: (hidden,))
    with frozen.switchable(), pytest.raises(NotImplementedError, match="more than hidden states"):
        frozen.run(lambda: inner(adapted).base_model(input_ids=torch.ones(1, 3, dtype=torch.int64)))


def test_hidden_states_that_a_model_cannot_go_on_from_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    passed_over = FrozenLayers.passed_over
    monkeypatch.setattr(FrozenLayers, "passed_over", lambda frozen, hidden: passed_over(frozen, hidden.flip(1)))
    probed = choose_forward(inner(upper()), caches=True)
    assert probed.frozen is None
    (limitation,) = probed.limitations
    assert "are not kept from epoch to epoch" in limitation
    assert "the model's own logits" in limitation


def test_models_that_run_one_document_at_a_time_keep_hidden_states_too() -> None:
    adapted = upper()
    forward = replace(choose_forward(inner(adapted), caches=True), packs=False, shares=False, head=None, narrows=False)
    known = HiddenStateCache(PLENTY)
    expected, _ = trained(replace(forward, frozen=None), adapted, documents(9, 14), None)
    for _ in range(2):
        found, _ = trained(forward, adapted, documents(9, 14), known)
        assert torch.equal(found, expected)


def test_without_the_wish_nothing_is_probed_or_kept() -> None:
    adapted = upper()
    layers: list[nn.Module] = []
    inner(adapted).get_input_embeddings().register_forward_hook(lambda module, *_: layers.append(module))
    counts = []
    for caches in (False, True):
        layers.clear()
        choose_forward(inner(adapted), caches=caches)
        counts.append(len(layers))
    assert counts[1] == counts[0] + 3  # each document by itself below, and both above

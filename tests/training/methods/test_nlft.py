import math
from typing import Any

import pytest
import torch

from tests.training.builders import FACTS, log_scores, question, scores
from worker.training.data.examples import ChatExample, NLFTExample
from worker.training.methods.base import find_problems
from worker.training.methods.nlft import NLFT, NLFTHyperparameters
from worker.training.methods.supervised import Supervised, SupervisedHyperparameters
from worker.training.types import ScoredBatch

METHOD = NLFT()
RIGHT = NLFTExample(question("1 + 1?"), response="2", reference="two")
WRONG = NLFTExample(question("1 + 1?"), response="3", reference="two", judgment="too large")


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def right_and_wrong(**extra: Any) -> ScoredBatch:
    """A right example of two tokens and a wrong one of two, its first token salient."""
    passes = {
        "base": scores([0.5, 0.25], [0.2, 0.9]),
        "reference": scores([1.0, 0.475], [0.1, 0.25]),
        "judgment": scores([], [0.6, 0.9]),
    }
    return ScoredBatch(passes | extra, {"right": torch.tensor([1.0, 0.0])})


def online(**values: Any) -> NLFTHyperparameters:
    return NLFTHyperparameters.model_validate({"scoring": "online", "over_cap": "none"} | values)


RIGHT_WEIGHTED = -(2 * math.log(0.5) + 0.5**0.6 * math.log(0.25)) / 2
RIGHT_PLAIN = -(math.log(0.5) + math.log(0.25)) / 2
WRONG_WEIGHTED = -(2 * sigmoid(1.5) * math.log(0.8) + 0.5 * math.log(0.9)) / 2
WRONG_HINDSIGHT = -(math.log(0.6) + math.log(0.9)) / 2


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [RIGHT_WEIGHTED + RIGHT_PLAIN, WRONG_WEIGHTED]),
        ({"nll_weight": 0.0}, [RIGHT_WEIGHTED, WRONG_WEIGHTED]),
        ({"hindsight_weight": 0.5}, [RIGHT_WEIGHTED + RIGHT_PLAIN, WRONG_WEIGHTED + 0.5 * WRONG_HINDSIGHT]),
        ({"loss_scale": 10.0}, [10 * (RIGHT_WEIGHTED + RIGHT_PLAIN), 10 * WRONG_WEIGHTED]),
    ],
)
def test_loss_by_hand(settings: dict[str, Any], expected: list[float]) -> None:
    losses = METHOD.loss(right_and_wrong(), online(**settings)).losses
    torch.testing.assert_close(losses, torch.tensor(expected), rtol=1e-5, atol=1e-7)


def test_only_the_base_pass_and_the_hindsight_term_carry_gradient() -> None:
    batch = right_and_wrong()
    for tokens in batch.passes.values():
        tokens.logprobs.requires_grad_()
    torch.autograd.backward(METHOD.loss(batch, online()).losses.sum())
    has_gradient = {name: tokens.logprobs.grad is not None for name, tokens in batch.passes.items()}
    assert has_gradient == {"base": True, "reference": False, "judgment": False}
    torch.autograd.backward(METHOD.loss(batch, online(hindsight_weight=1.0)).losses.sum())
    torch.testing.assert_close(batch.passes["judgment"].logprobs.grad, torch.tensor([-0.5, -0.5]))


def test_weights_of_one_give_exactly_the_supervised_loss() -> None:
    logprobs = -torch.rand(40, generator=torch.Generator().manual_seed(0)) * 9
    base = log_scores(logprobs, [13, 1, 26])
    certain = log_scores(torch.zeros(40), [13, 1, 26])
    nothing = log_scores(torch.zeros(0), [0, 0, 0])
    batch = ScoredBatch(
        {"base": base, "reference": certain, "judgment": nothing, "completion": base}, {"right": torch.zeros(3)}
    )
    weighted = METHOD.loss(batch, online())  # wrong, nothing salient, sqrt(1) everywhere
    plain = Supervised().loss(batch, SupervisedHyperparameters())
    assert torch.equal(weighted.losses, plain.losses)
    all_right = ScoredBatch(batch.passes, {"right": torch.ones(3)})
    flat = {"reference_threshold": 1.0, "nll_weight": 0.0}
    assert torch.equal(METHOD.loss(all_right, online(**flat)).losses, plain.losses)


def test_frozen_scoring_compares_contexts_of_the_same_model() -> None:
    moved = right_and_wrong(base=scores([0.5, 0.25], [0.6, 0.9]), judged_base=scores([], [0.2, 0.9]))
    at_start = right_and_wrong()
    frozen = METHOD.saliency(moved, online(scoring="frozen"))
    assert torch.equal(frozen.weights, METHOD.saliency(at_start, online()).weights)


def test_metrics_are_means_over_examples() -> None:
    metrics = METHOD.loss(right_and_wrong(), online()).metrics
    assert metrics["salient_fraction"].item() == pytest.approx(0.5)
    assert metrics["lowered_fraction"].item() == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"scoring": "online"}, ["base", "reference", "judgment"]),
        ({"scoring": "epoch"}, ["base", "reference", "judgment", "judged_base"]),
        ({"scoring": "frozen"}, ["base", "reference", "judgment", "judged_base"]),
        ({"scoring": "frozen", "hindsight_weight": 1.0}, ["base", "reference", "judgment", "judged_base", "hindsight"]),
    ],
)
def test_passes(settings: dict[str, Any], names: list[str]) -> None:
    passes = METHOD.passes(NLFTHyperparameters.model_validate(settings))
    assert [scoring_pass.name for scoring_pass in passes] == names
    guided = [p for p in passes if p.name in {"reference", "judgment", "judged_base"}]
    assert all(p.cached == (settings["scoring"] != "online") for p in guided)
    assert all(p.renewed == (settings["scoring"] == "epoch") for p in guided)
    assert all(p.with_adapter == (settings["scoring"] != "frozen") for p in guided)
    assert [p.name for p in passes if p.with_grad] == [name for name in names if name in {"base", "hindsight"}]


def test_online_hindsight_needs_no_pass_of_its_own() -> None:
    passes = METHOD.passes(online(hindsight_weight=1.0))
    assert {p.name for p in passes if p.with_grad} == {"base", "judgment"}


@pytest.mark.parametrize(("cluster", "expected"), [("none", False), ("distance", True), ("similarity", True)])
def test_hidden_states_are_asked_for_only_where_neighbours_are(cluster: str, expected: bool) -> None:
    assert METHOD.passes(online(cluster=cluster))[0].with_hidden is expected


@pytest.mark.parametrize(
    ("row", "paths"),
    [
        (RIGHT, []),
        (WRONG, []),
        (NLFTExample(question("?"), reference="two"), ["response"]),
        (NLFTExample(question("?"), response="2"), ["reference"]),
        (NLFTExample(question("?")), ["response", "reference"]),
        (ChatExample(question("?")), [""]),
    ],
)
def test_check_names_what_a_row_lacks(row: Any, paths: list[str]) -> None:
    assert [(problem.line, problem.path) for problem in find_problems(METHOD, row, 7)] == [(7, path) for path in paths]


def test_preset_paper_takes_the_published_values_and_explicit_values_win() -> None:
    chosen = NLFTHyperparameters.resolve({"preset": "paper", "n_epochs": 3, "learning_rate": "auto"}, FACTS)
    assert (chosen.n_epochs, chosen.learning_rate, chosen.batch_size, chosen.loss_scale) == (3, 5e-5, 4, 10.0)
    assert (chosen.scoring, chosen.hindsight_weight, chosen.cluster, chosen.over_cap) == (
        "online",
        1.0,
        "distance",
        "salient_only",
    )
    adapter = METHOD.adapter(chosen)
    assert (adapter.r, adapter.alpha, adapter.dropout) == (16, 16, 0.05)
    assert adapter.target_modules == ["gate_proj", "up_proj", "down_proj"]


def test_preset_auto_takes_what_was_measured_to_work() -> None:
    chosen = NLFTHyperparameters.resolve({"preset": "auto"}, FACTS)
    assert (chosen.scoring, chosen.hindsight_weight, chosen.cluster) == ("frozen", 0.0, "none")
    assert METHOD.adapter(chosen).target_modules == "all-linear"


@pytest.mark.parametrize(("guided", "level"), [(0.9, "info"), (0.5, "warn"), (0.1, "warn")])
def test_probe_warns_unless_the_reference_becomes_likelier_once_shown(guided: float, level: str) -> None:
    probe = METHOD.probe
    assert probe is not None
    batch = ScoredBatch({"plain": scores([0.5, 0.5], [0.5]), "guided": scores([guided, guided], [guided])}, {})
    finding = probe.diagnose(batch, NLFTHyperparameters())
    assert finding.level == level
    assert finding.data["gain"] == pytest.approx(math.log(guided / 0.5), abs=1e-6)

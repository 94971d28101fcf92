import pytest
import torch
from torch import nn

from tests.training.engine.prepared import BUDGET, make_scorer, prepare
from tests.training.models import inner, own_logprobs
from worker.training.types import ScoringPass

ROWS = prepare(
    [{"first": 9, "second": 12}, {"first": 5}, {"second": 7, "first": 21}],
    [{"right": 1.0}, {"right": 0.0}, {"right": 1.0}],
)
FIRST = ScoringPass("one", "first", with_grad=True)
SECOND = ScoringPass("two", "second", with_grad=True, with_hidden=True)


def test_scores_are_ragged_and_lack_what_an_example_lacks() -> None:
    _, scorer = make_scorer()
    with scorer.attention():
        batch, hits = scorer.score(ROWS, [FIRST, SECOND])
    one, two = batch.passes["one"], batch.passes["two"]
    assert one.lengths.tolist() == [7, 3, 19]
    assert one.example.tolist() == [0] * 7 + [1] * 3 + [2] * 19
    assert two.lengths.tolist() == [10, 0, 5]
    assert one.hidden is None
    assert two.hidden is not None
    assert two.hidden.shape == (15, 32)
    assert not two.hidden.requires_grad
    assert batch.values["right"].tolist() == [1.0, 0.0, 1.0]
    assert hits["one"].shape == (29,)


@pytest.mark.parametrize(("with_adapter", "with_grad"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("budget", [1, 15, BUDGET])
def test_every_kind_of_pass_gives_the_models_own_logprobs(with_adapter: bool, with_grad: bool, budget: int) -> None:
    adapted, scorer = make_scorer(budget)
    scoring_pass = ScoringPass("one", "first", with_grad=with_grad, with_adapter=with_adapter)
    with scorer.attention():
        found = scorer.score(ROWS, [scoring_pass])[0].passes["one"].logprobs
    sequences = [row.rendered.sequences["first"] for row in ROWS]
    with torch.no_grad():
        if with_adapter:
            expected = torch.cat([own_logprobs(inner(adapted), sequence) for sequence in sequences])
        else:
            with adapted.disable_adapter():
                expected = torch.cat([own_logprobs(inner(adapted), sequence) for sequence in sequences])
    torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-5)
    assert found.requires_grad == with_grad


@pytest.mark.parametrize(
    "options",
    [
        {"with_grad": True, "with_adapter": False},
        {"cached": True},
        {"cached": True, "with_adapter": False, "with_hidden": True},
        {"renewed": True},
        {"cached": True, "renewed": True, "with_adapter": False},
    ],
)
def test_passes_that_mean_nothing_are_refused(options: dict[str, bool]) -> None:
    with pytest.raises(ValueError, match="pass one"):
        ScoringPass("one", "first", **options)


def test_a_pass_that_no_example_has_is_empty() -> None:
    _, scorer = make_scorer()
    with scorer.attention():
        batch, _ = scorer.score(ROWS[1:2], [FIRST, SECOND, ScoringPass("three", "second")])
    assert batch.passes["two"].logprobs.shape == (0,)
    assert batch.passes["three"].lengths.tolist() == [0]


@pytest.mark.parametrize("budget", [1, 15, BUDGET])
def test_cached_scores_are_those_of_the_bare_base_model(budget: int) -> None:
    _, scorer = make_scorer(budget)
    cached = ScoringPass("one", "second", with_adapter=False, cached=True)
    rows = prepare([{"first": 4, "second": 8} for _ in range(2)])
    rows += prepare([{"first": 6}])
    reports: list[tuple[int, int]] = []
    with scorer.attention():
        scorer.fill_cache(rows, [cached, FIRST], lambda done, total: reports.append((done, total)))
        recalled = scorer.score(rows, [cached])[0].passes["one"]
        fresh = scorer.score(rows, [ScoringPass("one", "second", with_adapter=False)])[0].passes["one"]
    torch.testing.assert_close(recalled.logprobs, fresh.logprobs, rtol=0, atol=1e-6)
    assert recalled.lengths.tolist() == fresh.lengths.tolist() == [6, 6, 0]
    assert reports[-1] == (2, 2)


def test_results_do_not_depend_on_the_order_of_examples() -> None:
    _, scorer = make_scorer()
    with scorer.attention():
        forwards = scorer.score(ROWS, [FIRST])[0].passes["one"].logprobs.detach()
        backwards = scorer.score(ROWS[::-1], [FIRST])[0].passes["one"].logprobs.detach()
    torch.testing.assert_close(torch.cat(torch.split(backwards, [19, 3, 7])[::-1]), forwards, rtol=0, atol=1e-5)


def test_adapter_dropout_is_active_only_where_there_is_gradient() -> None:
    adapted, scorer = make_scorer(dropout=0.5)
    plain = ScoringPass("one", "first")
    with scorer.attention():
        repeated = [scorer.score(ROWS, [p])[0].passes["one"].logprobs.detach() for p in (plain, plain, FIRST, FIRST)]
    assert torch.equal(repeated[0], repeated[1])
    assert not torch.equal(repeated[2], repeated[3])
    assert not any(module.training for module in adapted.modules() if isinstance(module, nn.Dropout))

import dataclasses
import math

import pytest

from bench.api.measures import Bar, Sample, Summary, judge, quantile, summarise


def sample(units: float, cpu: float, wall: float = 1.0, latencies: tuple[float, ...] = (0.001,)) -> Sample:
    return Sample(units=units, wall=wall, cpu=cpu, postgres_cpu=0.5, client_busy=0.2, latencies=latencies)


def summary(*samples: Sample, opponents: tuple[Sample, ...] = ()) -> Summary:
    return summarise("get job", "requests", samples, opponents)


def test_rates_are_medians_over_rounds() -> None:
    found = summary(sample(100, 0.1), sample(100, 0.2), sample(100, 10.0, wall=20.0))
    assert (found.per_cpu, found.per_wall, found.rounds) == (500, 100, 3)


def test_a_share_is_taken_round_by_round() -> None:
    # In the second round everything was four times slower; the share is the same.
    own, opponents = (sample(100, 0.1), sample(100, 0.4)), (sample(1000, 0.5), sample(1000, 2.0))
    found = summary(*own, opponents=opponents)
    assert found.of_constant_cpu == pytest.approx(0.5)
    assert found.of_constant_wall == pytest.approx(0.1)


def test_without_an_opponent_there_is_no_share() -> None:
    assert summary(sample(1, 1)).of_constant_cpu is None


def test_rounds_without_their_opponent_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2 is"):
        summary(sample(1, 1), sample(1, 1), opponents=(sample(1, 1),))


def test_latencies_are_those_of_all_rounds_together() -> None:
    found = summary(sample(2, 1, latencies=(0.004, 0.001)), sample(2, 1, latencies=(0.003, 0.002)))
    assert (found.p50_ms, found.p99_ms) == (2, 4)


def test_database_time_is_for_each_unit() -> None:
    assert summary(sample(100, 1)).postgres_cpu_ms == 5


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2), (0.51, 3), (0.99, 4), (1.0, 4), (0.0, 1)])
def test_quantiles_are_values_that_occurred(share: float, expected: float) -> None:
    assert quantile([1, 2, 3, 4], share) == expected


def test_no_values_have_no_quantile() -> None:
    assert math.isnan(quantile([], 0.5))


def test_a_busy_client_is_marked() -> None:
    calm = summary(sample(1, 1))
    assert not calm.is_client_bound
    assert dataclasses.replace(calm, client_busy=0.95).is_client_bound


def test_a_bar_is_judged_by_both_clocks() -> None:
    found = summary(sample(100, 0.1, wall=0.5))
    [by_both] = judge([Bar("get job", 150)], {"get job": found})
    [by_cpu_alone] = judge([Bar("get job", 400)], {"get job": found})
    assert by_both.is_met
    assert not by_cpu_alone.is_met
    assert str(by_cpu_alone) == "get job: bar 400 a second; by CPU time 1000 pass; by wall 200 MISSED by 50%"


def test_a_share_bar_is_judged_by_shares() -> None:
    found = summary(sample(100, 0.4), opponents=(sample(100, 0.1),))
    [verdict] = judge([Bar("get job", 0.3, is_share=True)], {"get job": found})
    assert verdict.by_cpu == pytest.approx(0.25)
    assert verdict.by_wall == pytest.approx(1.0)


def test_a_bar_without_its_workload_has_no_verdict() -> None:
    assert judge([Bar("upload", 300)], {}) == []

"""The arithmetic: from what was counted in a round to medians, ratios and verdicts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

MIB = 1 << 20
CLIENT_LIMIT = 0.9
"""A client that computes for a larger share of its time may be what held the rate down."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One workload in one round.

    Attributes:
        units: Answers, or MiB of uploads.
        wall: Seconds.
        cpu: CPU seconds of the server process.
        postgres_cpu: CPU seconds of PostgreSQL in the same time.
        client_busy: Share of the wall time in which the busiest client process computed.
        latencies: Seconds, one an answer.
    """

    units: float
    wall: float
    cpu: float
    postgres_cpu: float
    client_busy: float
    latencies: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """Medians over the rounds of one workload; rates in units a second, latencies in milliseconds.

    ``of_constant_*`` is the median over rounds of the rate over the opponent's rate in the same round; None for the
    opponents themselves.
    """

    name: str
    unit: str
    rounds: int
    per_cpu: float
    per_wall: float
    of_constant_cpu: float | None
    of_constant_wall: float | None
    postgres_cpu_ms: float
    p50_ms: float
    p99_ms: float
    server_busy: float
    client_busy: float

    @property
    def is_client_bound(self) -> bool:
        """Whether the load generator rather than the server may have set the rate."""
        return self.client_busy > CLIENT_LIMIT


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure must reach: ``share`` of the constant endpoint's rate, or else ``rate`` in units a second."""

    workload: str
    least: float
    is_share: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar beside what was measured, by CPU second of the server and by second of wall."""

    bar: Bar
    by_cpu: float
    by_wall: float

    @property
    def is_met(self) -> bool:
        """Whether both figures reach the bar."""
        return min(self.by_cpu, self.by_wall) >= self.bar.least

    def __str__(self) -> str:
        kind = "of the constant endpoint" if self.bar.is_share else "a second"
        told = f"{self.bar.workload}: bar {self.bar.least:g} {kind}; by CPU time {self._told(self.by_cpu)}"
        return f"{told}; by wall {self._told(self.by_wall)}"

    def _told(self, value: float) -> str:
        lack = 1 - value / self.bar.least
        figure = f"{value:.3f}" if self.bar.is_share else f"{value:.0f}"
        return f"{figure} pass" if lack <= 0 else f"{figure} MISSED by {lack:.0%}"


BARS = (
    Bar("get job", 0.3, is_share=True),
    Bar("create job, one project", 500),
    Bar("create job, 8 projects", 500),
    Bar("upload, unchecked", 300),
    Bar("upload, fine-tune rows", 300),
)


def summarise(name: str, unit: str, samples: Sequence[Sample], opponents: Sequence[Sample] = ()) -> Summary:
    """Return the medians of one workload; ``opponents`` are the samples of the same rounds.

    Raises:
        ValueError: There are no samples, or not as many opponents.
    """
    latencies = sorted(latency for sample in samples for latency in sample.latencies)
    return Summary(
        name=name,
        unit=unit,
        rounds=len(samples),
        per_cpu=median(_per_cpu(sample) for sample in samples),
        per_wall=median(sample.units / sample.wall for sample in samples),
        of_constant_cpu=_share([_per_cpu(one) for one in samples], [_per_cpu(one) for one in opponents]),
        of_constant_wall=_share([one.units / one.wall for one in samples], [one.units / one.wall for one in opponents]),
        postgres_cpu_ms=median(1000 * sample.postgres_cpu / sample.units for sample in samples),
        p50_ms=1000 * quantile(latencies, 0.5),
        p99_ms=1000 * quantile(latencies, 0.99),
        server_busy=median(sample.cpu / sample.wall for sample in samples),
        client_busy=median(sample.client_busy for sample in samples),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest of the ordered values that at least ``share`` of them do not exceed; NaN without values."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def judge(bars: Sequence[Bar], summaries: Mapping[str, Summary]) -> list[Verdict]:
    """Return the verdict on every bar whose workload was measured."""
    verdicts = []
    for bar in bars:
        found = summaries.get(bar.workload)
        if found is None:
            continue
        figures = (found.of_constant_cpu, found.of_constant_wall) if bar.is_share else (found.per_cpu, found.per_wall)
        verdicts.append(Verdict(bar, *(math.nan if figure is None else figure for figure in figures)))
    return verdicts


def _per_cpu(sample: Sample) -> float:
    return sample.units / sample.cpu if sample.cpu else math.inf


def _share(own: Sequence[float], opponents: Sequence[float]) -> float | None:
    if not opponents:
        return None
    return median(mine / theirs for mine, theirs in zip(own, opponents, strict=True))

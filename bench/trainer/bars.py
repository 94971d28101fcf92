"""What the trainer is to reach, as data, and whether it did."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from bench.trainer.record import UNIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from bench.trainer.record import Contest

TRL_WHOLE = ("trl", "trl_padded", "trl_packed")
GPU_COMMAND = "make bench-trainer POINTS=gpu-8b VARIANTS=products,supervised"


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that was measured: contests by point, and lists of other figures by name."""

    contests: Mapping[str, Contest]
    others: Mapping[str, Sequence[float]]

    def at(self, point: str, figure: Callable[[Contest], float]) -> float:
        """Return ``figure`` at ``point``, NaN where it was not measured."""
        return figure(self.contests[point]) if point in self.contests else math.nan

    def other(self, name: str) -> float:
        """Return the median of the figures called ``name``, NaN where there are none."""
        return median(self.others[name]) if self.others.get(name) else math.nan


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure and its limit.

    Attributes:
        text: What is compared.
        limit: To be reached.
        sense: Whether the figure must be at least or at most the limit.
        figure: From the measurements; NaN where they do not have it.
        command: How to measure it where it is missing.
    """

    text: str
    limit: float
    sense: Literal["at least", "at most"]
    figure: Callable[[Figures], float]
    command: str = "make bench-trainer"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar and the ``value`` that was reached."""

    bar: Bar
    value: float

    @property
    def state(self) -> str:
        """``pass``, ``MISSED by`` so many per cent of the limit, or ``open`` with the command that measures it."""
        if math.isnan(self.value):
            return f"open: {self.bar.command}"
        lacking = self.bar.limit - self.value if self.bar.sense == "at least" else self.value - self.bar.limit
        return "pass" if lacking <= 0 else f"MISSED by {lacking / self.bar.limit:.1%}"

    def to_json(self) -> dict[str, Any]:
        """Return figure, limit and state."""
        value = None if math.isnan(self.value) else round(self.value, 4)
        return {
            "bar": self.bar.text,
            "sense": self.bar.sense,
            "limit": self.bar.limit,
            "value": value,
            "state": self.state,
        }


def judge(figures: Figures) -> Iterator[Verdict]:
    """Yield every bar with what was reached."""
    for bar in BARS:
        yield Verdict(bar, bar.figure(figures))


def _best_of_trl(contest: Contest) -> str:
    """Return the fastest of TRL's settings that take all rows as one batch."""
    timed = [name for name in TRL_WHOLE if contest.seconds(name)]
    return min(timed, key=lambda name: median(contest.seconds(name)), default=TRL_WHOLE[0])


def _share(point: str) -> Callable[[Figures], float]:
    return lambda figures: figures.at(point, lambda contest: contest.share_of_peak(UNIT))


def _ratio(point: str, variant: str, unit: str = UNIT) -> Callable[[Figures], float]:
    return lambda figures: figures.at(point, lambda contest: contest.ratio(variant, unit))


def _over_prediction(point: str, variant: str) -> Callable[[Figures], float]:
    return lambda figures: figures.at(point, lambda contest: contest.ratio(variant) / contest.predicted(variant))


def _memory(contest: Contest, variant: str, unit: str) -> float:
    held, own = contest.peak_bytes(variant), contest.peak_bytes(unit)
    return held / own if held and own else math.nan


BARS = (
    Bar("supervised step / products of the model's shapes, bench", 0.75, "at least", _share("bench")),
    Bar("the same, GPU, 8 B configuration", 0.50, "at least", _share("gpu-8b"), GPU_COMMAND),
    Bar("NLFT frozen / supervised, bench", 1.02, "at most", _ratio("bench", "nlft_frozen")),
    Bar("NLFT frozen / supervised, default model", 1.02, "at most", _ratio("default", "nlft_frozen")),
    Bar("NLFT online / supervised, bench", 1.95, "at most", _ratio("bench", "nlft_online")),
    Bar("NLFT online, prefixes shared / supervised, bench", 1.85, "at most", _ratio("bench", "nlft_shared")),
    Bar("NLFT online as the product runs it / supervised, bench", 1.75, "at most", _ratio("bench", "nlft_lent")),
    Bar(
        "NLFT online / supervised over the operations' ratio, default model",
        1.05,
        "at most",
        _over_prediction("default", "nlft_online"),
    ),
    Bar(
        "NLFT online, prefixes shared / supervised over the operations' ratio, default model",
        1.05,
        "at most",
        _over_prediction("default", "nlft_shared"),
    ),
    Bar(
        "TRL at its best, all rows in a batch / supervised, bench",
        2.3,
        "at least",
        lambda figures: figures.at("bench", lambda contest: contest.ratio(_best_of_trl(contest))),
    ),
    Bar("TRL row by row / supervised, bench", 2.3, "at least", _ratio("bench", "trl_rows")),
    Bar(
        "published structure, micro-batch 1 / online as the product runs it, bench",
        4.0,
        "at least",
        _ratio("bench", "published_1", "nlft_lent"),
    ),
    Bar(
        "published structure, micro-batch 1 / frozen, bench",
        7.5,
        "at least",
        _ratio("bench", "published_1", "nlft_frozen"),
    ),
    Bar(
        "memory, TRL at its best, all rows in a batch / supervised, bench",
        2.5,
        "at least",
        lambda figures: figures.at("bench", lambda contest: _memory(contest, _best_of_trl(contest), UNIT)),
    ),
    Bar(
        "memory, TRL row by row / supervised row by row, bench",
        2.5,
        "at least",
        lambda figures: figures.at("bench", lambda contest: _memory(contest, "trl_rows", "supervised_rows")),
    ),
    Bar(
        "memory, published structure, whole batch / online as the product runs it, bench",
        6.0,
        "at least",
        lambda figures: figures.at("bench", lambda contest: _memory(contest, "published_all", "nlft_lent")),
    ),
    Bar(
        "seconds from a job's inputs to its first step, as by default: by a trainer that waits",
        3.0,
        "at most",
        lambda f: f.other("start_up"),
    ),
    Bar("the same in CPU time, for a busy machine", 3.0, "at most", lambda f: f.other("start_up_cpu")),
    Bar("generation, batched / one by one", 8.0, "at least", lambda f: f.other("generation")),
)

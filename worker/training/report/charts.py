"""Geometry of the report's charts: figures in, SVG paths and ticks out. The drawing is the template's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WIDTH, HEIGHT = 460, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 30
_MOST_POINTS = 400
SMOOTHED = "smooth"
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: where, in pixels, and what it says."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """A curve: CSS class, name for the legend, SVG path, and dots with a text each."""

    kind: str
    name: str
    path: str
    dots: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a histogram in pixels, with a text."""

    left: float
    top: float
    width: float
    height: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing of ``WIDTH`` by ``HEIGHT`` pixels. ``description`` says in words what it shows."""

    title: str
    description: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    bars: tuple[Bar, ...] = ()

    left, right, top, bottom = _LEFT, WIDTH - _RIGHT, _TOP, HEIGHT - _BOTTOM
    width, height = WIDTH, HEIGHT


@dataclass(frozen=True, slots=True)
class Series:
    """Points to draw, ascending in x; ``dotted`` marks each point."""

    kind: str
    name: str
    points: Sequence[Point]
    dotted: bool = False


def draw_curves(title: str, series: Sequence[Series], *, percent: bool = False) -> Chart | None:
    """Return curves over optimizer steps; None without a finite point. Shares of 1 are labelled in percent."""
    drawn = [one for one in (_finite(one) for one in series) if one.points]
    if not drawn:
        return None
    xs = [x for one in drawn for x, _ in one.points]
    ys = [y for one in drawn for _, y in one.points]
    x_marks = _nice_ticks(min(xs), max(xs), whole=True)
    y_marks = _nice_ticks(min(0.0, *ys), max(ys), whole=False)
    spans = (min(xs), max(xs)), (y_marks[0], max(y_marks[-1], *ys))
    form = _percent if percent else _number
    return Chart(
        title=title,
        description="; ".join(_describe(one, form) for one in drawn if one.kind != SMOOTHED),
        x_label="optimizer step",
        x_ticks=tuple(Tick(_across(x, spans[0]), _number(x)) for x in x_marks if spans[0][0] <= x <= spans[0][1]),
        y_ticks=tuple(Tick(_up(y, spans[1]), form(y)) for y in y_marks),
        lines=tuple(_trace(one, spans, form) for one in drawn),
    )


def draw_histogram(title: str, counts: Sequence[int], bin_width: float) -> Chart | None:
    """Return bars of ``counts`` over bins that begin at 0; None where nothing was counted."""
    total = sum(counts)
    if not total:
        return None
    shares = [count / total for count in counts]
    y_marks = _nice_ticks(0.0, max(shares), whole=False)
    x_span, y_span = (0.0, len(counts) * bin_width), (0.0, max(y_marks[-1], *shares))
    bars = []
    for index, share in enumerate(shares):
        left, right = _across(index * bin_width, x_span), _across((index + 1) * bin_width, x_span)
        top = _up(share, y_span)
        text = f"{index * bin_width:.2f} to {(index + 1) * bin_width:.2f}: {counts[index]} tokens ({_percent(share)})"
        bars.append(Bar(left + 0.5, top, right - left - 1, Chart.bottom - top, text))
    mean = sum((index + 0.5) * bin_width * share for index, share in enumerate(shares))
    return Chart(
        title=title,
        description=f"{total} tokens, mean weight about {mean:.2f}",
        x_label="token weight",
        x_ticks=tuple(Tick(_across(x, x_span), _number(x)) for x in _nice_ticks(*x_span, whole=False)),
        y_ticks=tuple(Tick(_up(y, y_span), _percent(y)) for y in y_marks),
        bars=tuple(bars),
    )


def draw_sparkline(values: Sequence[float], width: float, height: float) -> str:
    """Return the SVG path of shares in [0, 1] over evenly spaced recordings."""
    step = width / max(1, len(values) - 1)
    return _path([(index * step, 1 + (height - 2) * (1 - value)) for index, value in enumerate(values)])


def smooth(points: Sequence[Point], window: int) -> list[Point]:
    """Return the running mean over the last ``window`` points."""
    found = []
    for index, (x, _) in enumerate(points):
        part = [y for _, y in points[max(0, index + 1 - window) : index + 1]]
        found.append((x, sum(part) / len(part)))
    return found


def _finite(series: Series) -> Series:
    points = [(x, y) for x, y in series.points if math.isfinite(y)]
    every = math.ceil(len(points) / _MOST_POINTS) or 1
    # The last point is what people look for: thin out from the end.
    return Series(series.kind, series.name, points[::-1][::every][::-1], series.dotted)


def _trace(series: Series, spans: tuple[Point, Point], say: Callable[[float], str]) -> Line:
    points = [(_across(x, spans[0]), _up(y, spans[1])) for x, y in series.points]
    marked = zip(points, series.points, strict=True) if series.dotted or len(points) == 1 else ()
    dots = tuple((px, py, f"{series.name}, step {_number(x)}: {say(y)}") for (px, py), (x, y) in marked)
    return Line(series.kind, series.name, _path(points), dots)


def _describe(series: Series, say: Callable[[float], str]) -> str:
    return f"{series.name} from {say(series.points[0][1])} to {say(series.points[-1][1])}"


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(points))


def _across(x: float, span: Point) -> float:
    return Chart.left + (Chart.right - Chart.left) * (x - span[0]) / ((span[1] - span[0]) or 1)


def _up(y: float, span: Point) -> float:
    return Chart.bottom - (Chart.bottom - Chart.top) * (y - span[0]) / ((span[1] - span[0]) or 1)


def _nice_ticks(low: float, high: float, *, whole: bool, most: int = 5) -> list[float]:
    """Return round numbers from at most ``low`` to at least ``high``: 1, 2 or 5 times a power of 10 apart."""
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / most))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= most)
    step = max(1.0, round(step)) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e15 else f"{value:.3g}"


def _percent(value: float) -> str:
    return f"{value:.0%}" if value in {0, 1} or abs(value) >= 0.1 else f"{value:.1%}"

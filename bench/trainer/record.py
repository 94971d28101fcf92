"""Figures of a run: what was measured, what follows from it, and the files that keep it."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING

from bench.trainer import gemm
from bench.trainer.flops import Shape, Work, documents, scored, trained
from bench.trainer.points import ADAPTER
from bench.trainer.variants import VARIANTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bench.trainer.contest import Measurement
    from bench.trainer.points import Point
    from bench.trainer.variants import Variant
    from worker.training.types import RenderedExample

UNIT = "supervised"


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table. Times are medians over the rounds; what could not be measured is NaN.

    Attributes:
        point: Where.
        variant: Who.
        title: The same in words.
        seconds: Of a step.
        fastest: Of the rounds, seconds.
        slowest: Of the rounds, seconds.
        microseconds_per_token: Seconds over the real tokens of the training pass.
        ratio: To the product's supervised step, median over the rounds of each round's ratio.
        predicted: The same ratio by operations.
        gflops: Needed operations a second, in billions.
        share_of_peak: Of what matrix products of the model's shapes reach in the same round.
        peak_mib: Memory above the loaded model.
        rounds: Steps measured.
        error: Why it could not be measured.
    """

    point: str
    variant: str
    title: str
    seconds: float
    fastest: float
    slowest: float
    microseconds_per_token: float
    ratio: float
    predicted: float
    gflops: float
    share_of_peak: float
    peak_mib: float
    rounds: int
    error: str = ""


class Contest:
    """The measurements at one point and the figures that follow from them."""

    def __init__(self, point: Point, measurements: Mapping[str, Measurement]) -> None:
        self.point = point
        self.measurements = measurements
        self._shape = Shape.of(point.model_config(), rank=ADAPTER.r)

    @cached_property
    def _rows(self) -> list[RenderedExample]:
        return self.point.rows()

    def seconds(self, variant: str) -> Sequence[float]:
        """Return the measured steps of ``variant``, none where it did not run."""
        found = self.measurements.get(variant)
        return found.seconds if found is not None and not found.error else ()

    def peak_bytes(self, variant: str) -> int:
        """Return the memory that ``variant`` held above its loaded model, 0 where it did not run."""
        return self.measurements[variant].peak_bytes if self.seconds(variant) else 0

    def ratio(self, variant: str, unit: str = UNIT) -> float:
        """Return the median over the rounds of one variant's time over another's."""
        pairs = list(zip(self.seconds(variant), self.seconds(unit), strict=False))
        return median(one / other for one, other in pairs) if pairs else math.nan

    def predicted(self, variant: str, unit: str = UNIT) -> float:
        """Return the ratio of the operations that the two need."""
        return self.work(VARIANTS[variant]).total / self.work(VARIANTS[unit]).total

    def share_of_peak(self, variant: str) -> float:
        """Return needed operations a second over those of matrix products, median over the rounds."""
        peak = VARIANTS[variant].peak
        pairs = list(zip(self.seconds(variant), self.seconds(peak), strict=False))
        if not pairs:
            return math.nan
        work, limit = self.work(VARIANTS[variant]).total, self.work(VARIANTS[peak]).total
        return median((work / one) / (limit / other) for one, other in pairs)

    def work(self, variant: Variant) -> Work:
        """Return the operations that a step of ``variant`` needs, however it goes about it."""
        if variant.task == "products":
            return Work(body=gemm.operations(gemm.products(self.point)))
        return needed(self._shape, self._rows, variant)

    def lines(self) -> list[Line]:
        """Return the table of this point."""
        return [self._line(VARIANTS[name], found) for name, found in self.measurements.items()]

    def _line(self, variant: Variant, found: Measurement) -> Line:
        times = self.seconds(variant.name) or [math.nan]
        seconds = median(times)
        tokens = sum(len(row.sequences["base"].input_ids) for row in self._rows)
        is_step = variant.task != "products"
        work = self.work(variant)
        return Line(
            point=self.point.name,
            variant=variant.name,
            title=variant.title,
            seconds=seconds,
            fastest=min(times),
            slowest=max(times),
            microseconds_per_token=seconds / tokens * 1e6 if is_step else math.nan,
            ratio=self.ratio(variant.name) if is_step else math.nan,
            predicted=self.predicted(variant.name) if is_step else math.nan,
            gflops=work.total / seconds / 1e9,
            share_of_peak=self.share_of_peak(variant.name) if is_step else 1.0,
            peak_mib=self.peak_bytes(variant.name) / 2**20 if is_step else math.nan,
            rounds=len(found.seconds),
            error=found.error or "",
        )


def needed(shape: Shape, rows: Sequence[RenderedExample], variant: Variant) -> Work:
    """Return the operations that the variant's task needs on ``rows``."""
    shares = variant.shares_prefixes
    bases = [row.sequences["base"] for row in rows]
    training = trained(
        shape,
        documents(bases, shares=shares),
        adapted=variant.adapted_share,
        begins_there=variant.keeps_hidden_states,
    )
    if variant.task in {"supervised", "nlft_cached"}:
        return training
    names = ("reference",) if variant.task == "two_prompts" else ("reference", "judgment")
    contexts = [row.sequences[name] for row in rows for name in names if name in row.sequences]
    known = bases if variant.lends_prefixes and variant.task == "nlft_online" else ()
    sizes = documents(contexts, shares=shares, known=known)
    scoring = scored(shape, sizes, with_adapter=variant.task != "two_prompts")
    return scoring if variant.task == "scoring" else training + scoring


def write_lines(path: Path, lines: Sequence[Line]) -> None:
    """Write ``lines`` as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Line)], lineterminator="\n")
        writer.writeheader()
        for line in lines:
            writer.writerow({name: _short(value) for name, value in asdict(line).items()})


def read_lines(path: Path) -> list[Line]:
    """Return what ``write_lines`` wrote."""
    kinds = {"rounds": int, "point": str, "variant": str, "title": str, "error": str}
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Line(**{name: kinds.get(name, float)(value) for name, value in row.items()}) for row in csv.DictReader(file)
        ]


def _short(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value

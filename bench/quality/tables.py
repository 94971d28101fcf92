"""Writes the study's tables from its records: a CSV each, and all of them as markdown.

python -m bench.quality.tables [--table main] [--against nlft]
"""

from __future__ import annotations

import argparse
import csv
import math
from dataclasses import asdict, dataclass, replace
from itertools import chain
from statistics import fmean
from typing import TYPE_CHECKING

from bench.quality.arms import ARMS, UNTRAINED
from bench.quality.comparisons import TABLES
from bench.quality.setting import RESULTS, WORK
from bench.quality.statistics import Comparison, compare, standard_error
from bench.quality.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from bench.quality.arms import Arm
    from bench.quality.comparisons import Table
    from bench.quality.store import Record

MARKDOWN_FILE = "tables.md"


@dataclass(frozen=True, slots=True)
class Line:
    """One arm in a table. ``comparison`` is this arm minus the table's reference arm, on the seeds that both have.

    ``guidance`` is the mean gain of its guidance checks in nats per token; nan where it makes none.
    """

    arm: str
    accuracies: Mapping[int, float]
    rows: str
    base: str
    codes: frozenset[str]
    seconds: float
    guidance: float
    comparison: Comparison | None

    @property
    def mean(self) -> float:
        """Mean accuracy over seeds."""
        return fmean(self.accuracies.values())

    @property
    def error(self) -> float:
        """Standard error of the mean over seeds; nan for a single one."""
        return standard_error(list(self.accuracies.values()))


def parts_of(table: Table, records: Sequence[Record]) -> list[list[Line]]:
    """Return the lines of ``table``, apart for each base model, the latest first: only runs on one base are paired."""
    own = [record for record in records if record.arm in table.arms and record.seed in table.seeds]
    bases = dict.fromkeys(record.base for record in reversed(own))
    return [_lines([record for record in own if record.base == base], table) for base in bases]


def _lines(records: Sequence[Record], table: Table) -> list[Line]:
    by_arm: dict[str, dict[int, Record]] = {}
    for record in records:
        by_arm.setdefault(record.arm, {})[record.seed] = record
    return [_line(name, by_arm, table.against) for name in table.arms if name in by_arm]


def current(records: Sequence[Record], arms: Mapping[str, Arm] = ARMS) -> list[Record]:
    """Return the records whose arm still has the settings they were made with."""
    return [record for record in records if record.arm in arms and record.settings == arms[record.arm].settings()]


def _line(name: str, by_arm: Mapping[str, Mapping[int, Record]], against: str) -> Line:
    own = by_arm[name]
    rows = sorted(record.rows for record in own.values())
    return Line(
        arm=name,
        accuracies={seed: own[seed].accuracy for seed in sorted(own)},
        rows=str(rows[0]) if rows[0] == rows[-1] else f"{rows[0]}-{rows[-1]}",
        base=next(iter(own.values())).base,
        codes=frozenset(record.code for record in own.values()),
        seconds=fmean(record.train_cpu_seconds for record in own.values()),
        guidance=fmean(math.nan if record.guidance is None else record.guidance for record in own.values()),
        comparison=None if name == against else _compared(own, by_arm.get(against, {}), is_base=name in UNTRAINED),
    )


def _compared(own: Mapping[int, Record], other: Mapping[int, Record], *, is_base: bool) -> Comparison | None:
    """Compare on common seeds; the untrained base model, which has no seed, stands against every one."""
    seeds = sorted(other if is_base else own.keys() & other.keys())
    if not seeds:
        return None
    answers = [next(iter(own.values())).answers if is_base else own[seed].answers for seed in seeds]
    return compare(answers, [other[seed].answers for seed in seeds])


def to_markdown(table: Table, parts: Sequence[Sequence[Line]]) -> str:
    """Return ``table`` for reading: accuracies and differences in percentage points."""
    return "\n".join([f"### {table.title}\n", *(_part_to_markdown(table, lines) for lines in parts)])


def _part_to_markdown(table: Table, lines: Sequence[Line]) -> str:
    text = [
        f"| arm | rows | seeds | accuracy % | minus `{table.against}` [95 %] | p | p, these adapters | train CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        error = "" if math.isnan(line.error) else f" ± {100 * line.error:.1f}"
        each = " ".join(f"{100 * value:.1f}" for value in line.accuracies.values())
        text.append(
            f"| `{line.arm}` | {line.rows} | {len(line.accuracies)} | **{100 * line.mean:.1f}**{error} ({each}) "
            f"| {_difference(line.comparison)} | {line.seconds:.0f} |"
        )
    codes = sorted({code for line in lines for code in line.codes if line.arm not in UNTRAINED})
    text += ["", f"Base model {lines[0].base}, training library {', '.join(codes)}."]
    gains = [line.guidance for line in lines if not math.isnan(line.guidance)]
    if gains:
        text.append(f"Guidance check: {fmean(gains):+.3f} nats per token of the reference once it is shown.")
    return "\n".join(text) + "\n"


def pool(table: Table, records: Sequence[Record]) -> dict[str, Comparison]:
    """Return the comparisons of arms that were run on several base models, all their runs together.

    A base model and a data seed are taken as one seed: both differ from pair to pair.
    """
    answers = {(one.arm, one.base, one.seed): one.answers for one in records if one.seed in table.seeds}
    found = {}
    for arm in (name for name in table.arms if name not in UNTRAINED and name != table.against):
        pairs = [(base, seed) for name, base, seed in answers if name == arm and (table.against, base, seed) in answers]
        if len({base for base, _ in pairs}) > 1:
            own = [answers[arm, base, seed] for base, seed in pairs]
            found[arm] = compare(own, [answers[table.against, base, seed] for base, seed in pairs])
    return found


def _pool_to_markdown(table: Table, pooled: Mapping[str, Comparison]) -> str:
    text = [
        f"| over all base models | seeds | minus `{table.against}` [95 %] | p | p, these adapters |",
        "|---|---|---|---|---|",
        *(f"| `{arm}` | {found.seeds} | {_difference(found)} |" for arm, found in pooled.items()),
    ]
    return "\n".join(text) + "\n"


def _difference(comparison: Comparison | None) -> str:
    if comparison is None:
        return "| |"
    low, high = 100 * comparison.low, 100 * comparison.high
    shown = f"{100 * comparison.difference:+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"{shown} | {_probability(comparison.p)} | {_probability(comparison.p_problems)}"


def _probability(value: float) -> str:
    if math.isnan(value):
        return "one seed"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def write_csv(file: Path, lines: Iterable[Line]) -> None:
    """Write one line an arm and base model: accuracies as shares, and the comparison's figures."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        figures = list(Comparison.__dataclass_fields__)
        measures = ["seeds", "mean", "standard_error", "accuracies", "train_cpu_seconds"]
        writer.writerow(["base", "arm", "rows", *measures, *figures])
        for line in lines:
            compared = {} if line.comparison is None else asdict(line.comparison)
            each = " ".join(f"{seed}:{value:.4f}" for seed, value in line.accuracies.items())
            measured = [len(line.accuracies), f"{line.mean:.4f}", f"{line.error:.4f}", each, f"{line.seconds:.0f}"]
            differences = (_figure(compared.get(name, "")) for name in figures)
            writer.writerow([line.base, line.arm, line.rows, *measured, *differences])


def _figure(value: float | str) -> float | str:
    """Return a share with the digits that mean something; the last bits are the processor's."""
    return round(value, 4) + 0.0 if isinstance(value, float) else value


def _trained(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if line.arm not in UNTRAINED]


def publish(tables: Iterable[Table], records: Sequence[Record], folder: Path | None) -> str:
    """Return those of ``tables`` that have results as markdown; written to ``folder``, too, with a CSV each."""
    texts = []
    for table in tables:
        parts = [lines for lines in parts_of(table, records) if _trained(lines)]
        parts = [lines for lines in parts if len(_trained(lines)) > 1] or parts  # one arm alone compares nothing
        if not parts:
            continue
        texts.append(to_markdown(table, parts))
        if pooled := pool(table, records):
            texts.append(_pool_to_markdown(table, pooled))
        if folder is not None:
            write_csv(folder / f"{table.name}.csv", chain.from_iterable(parts))
    told = "\n".join(texts)
    if folder is not None:
        (folder / MARKDOWN_FILE).write_text(told, encoding="utf-8")
    return told


def main() -> None:
    """Write and print the tables that have results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=TABLES, help="print this table only, and write nothing")
    parser.add_argument("--against", choices=ARMS, help="compare with this arm instead, and write nothing")
    options = parser.parse_args()
    records = current(Store(RESULTS, WORK).records())
    chosen = [TABLES[options.table]] if options.table else list(TABLES.values())
    shown = chosen if options.against is None else [replace(table, against=options.against) for table in chosen]
    print(publish(shown, records, None if options.table or options.against else RESULTS))


if __name__ == "__main__":
    main()

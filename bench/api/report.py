"""What a run leaves: one printed table with verdicts, and the same figures as CSV and JSON."""

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.api.measures import CLIENT_LIMIT, Summary, Verdict
from bench.machine import commit


@dataclass(frozen=True, slots=True)
class Following:
    """What idle followers cost.

    Attributes:
        followers: Connections held, each asking for its job's events once a period.
        period: Seconds.
        api_cpu_share: CPU seconds of the API a second, while only the followers ask.
        stream_cpu_share: The same while as many hold event streams instead and nothing happens.
        alone_ms: p50 and p99 of one client that asks for events one after the other, without followers.
        beside_ms: The same beside them.
    """

    followers: int
    period: float
    api_cpu_share: float
    stream_cpu_share: float
    alone_ms: tuple[float, float]
    beside_ms: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run: machine class, rounds, and what was found, by workload."""

    machine: str
    rounds: int
    summaries: Mapping[str, Summary]
    verdicts: Sequence[Verdict]
    following: Following


def show(report: Report) -> None:
    """Print the table."""
    print(f"{report.machine}; medians of {report.rounds} rounds; API on one core")
    columns = ("a CPU s", "a wall s", "of const CPU", "of const wall", "p50 ms", "p99 ms", "API busy", "client busy")
    print(f"{'':26}" + "".join(f"{column:>14}" for column in (*columns, "DB CPU ms")))
    for found in report.summaries.values():
        figures = (
            f"{found.per_cpu:.0f}",
            f"{found.per_wall:.0f}",
            _share(found.of_constant_cpu),
            _share(found.of_constant_wall),
            f"{found.p50_ms:.2f}",
            f"{found.p99_ms:.2f}",
            f"{found.server_busy:.2f}",
            f"{found.client_busy:.2f}{'!' if found.is_client_bound else ''}",
            f"{found.postgres_cpu_ms:.3f}",
        )
        print(f"{found.name:26}" + "".join(f"{figure:>14}" for figure in figures))
    print(
        f"rates are {', '.join(sorted({one.unit for one in report.summaries.values()}))}; DB CPU is for each of them;"
    )
    print(
        f"! a client process computed for more than {CLIENT_LIMIT:.0%} of its time and may be what limits the wall rate"
    )
    print(_tell(report.following))
    for verdict in report.verdicts:
        print(verdict)


def write(report: Report, folder: Path) -> Path:
    """Write CSV and JSON under the next free name of today; return the JSON's path."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    number = 1
    while (path := folder / f"{now:%Y-%m-%d}-{number}.json").exists():
        number += 1
    rows = [dataclasses.asdict(found) for found in report.summaries.values()]
    origin = {"machine": report.machine, "date": f"{now:%Y-%m-%dT%H:%MZ}", "commit": commit()}
    record: dict[str, Any] = {
        **origin,
        "rounds": report.rounds,
        "workloads": rows,
        "followers": dataclasses.asdict(report.following),
        "verdicts": [str(verdict) for verdict in report.verdicts],
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    with path.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, [*rows[0], *origin])
        table.writeheader()
        table.writerows({**{name: _rounded(value) for name, value in row.items()}, **origin} for row in rows)
    return path


def _tell(following: Following) -> str:
    alone, beside = following.alone_ms, following.beside_ms
    return (
        f"{following.followers} idle followers, each asking once in {following.period:g} s: "
        f"{following.api_cpu_share:.2f} of the API's core; events for one client "
        f"p50 {alone[0]:.2f} -> {beside[0]:.2f} ms, p99 {alone[1]:.2f} -> {beside[1]:.2f} ms; "
        f"as many quiet event streams: {following.stream_cpu_share:.3f} of the core"
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value

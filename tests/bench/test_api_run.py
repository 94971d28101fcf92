import csv
import json
from pathlib import Path

import pytest

from bench.api.report import show, write
from bench.api.run import Size, measure


def test_a_tiny_run_measures_everything_and_leaves_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = Size(rounds=1, seconds=0.1, upload_mib=1, connections=2, followers=3, period=0.2, listed_jobs=4)
    report = measure(size, tmp_path / "state")
    assert {verdict.bar.workload for verdict in report.verdicts} <= set(report.summaries)
    assert len(report.verdicts) == 5
    assert all(found.per_wall > 0 for found in report.summaries.values())
    path = write(report, tmp_path / "results")
    record = json.loads(path.read_text())
    with path.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [found["name"] for found in record["workloads"]] == list(report.summaries)
    show(report)
    assert "get job: bar 0.3 of the constant endpoint" in capsys.readouterr().out

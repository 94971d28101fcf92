"""What is kept of a dataset's validation."""

from typing import Any

from worker.training.data.reader import ReadReport

_LEFT_OUT = frozenset({"bytes", "problems", "total_problems"})


def file_report(report: ReadReport) -> dict[str, Any]:
    """Return the ``report`` of a file whose rows have no problems."""
    return {name: value for name, value in report.to_json().items() if name not in _LEFT_OUT}

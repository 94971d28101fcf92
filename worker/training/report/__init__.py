"""The report of a run: one HTML file that asks nobody for anything."""

from worker.training.report.document import REPORT_FILE, write_report
from worker.training.report.story import RunStory

__all__ = ["REPORT_FILE", "RunStory", "write_report"]

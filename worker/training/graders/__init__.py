"""Scores responses. Free of torch, and of any connection but the ``Completions`` that a caller hands in.

``grade`` scores one response, ``grade_all`` many; settings are the ``Grader`` union of ``worker.training.spec``.
"""

from worker.training.graders.final_answer import find_answer, find_number, is_correct
from worker.training.graders.grading import grade, grade_all
from worker.training.graders.samples import Grade, GradeError, Sample, sample_of

__all__ = [
    "Grade",
    "GradeError",
    "Sample",
    "find_answer",
    "find_number",
    "grade",
    "grade_all",
    "is_correct",
    "sample_of",
]

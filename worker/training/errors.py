"""Errors of the training library.

    TrainingError                  exit 1   code ``internal_error``
    ├── DatasetError               exit 10  ``invalid_training_file``, lists every bad line
    ├── SpecError                  exit 11  ``invalid_hyperparameters``
    ├── PreviewTooLargeError       exit 10  ``too_many_tokens``
    ├── BaseModelError             exit 11  ``invalid_base_model``
    ├── DeviceOutOfMemoryError     exit 12  ``out_of_memory``
    ├── NonFiniteLossError         exit 10  ``non_finite_loss``
    ├── StageError                 exit 10  ``rollout_failed``, ``grading_failed``, ``judging_failed``
    ├── RankLostError              exit 1   ``rank_lost``
    └── CheckpointError            exit 1   ``invalid_checkpoint``

Two more exits are no errors and not in this tree:

    TrainingInterrupted
    ├── TrainingStopped            exit 13  a checkpoint of the last finished step lies in ``checkpoints/``
    └── TrainingCancelled          exit 14  nothing is kept

All are picklable: arguments stay in ``args``.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit status of ``python -m worker.training run``."""

    DONE = 0
    INTERNAL = 1
    DATA = 10
    CONFIGURATION = 11
    OUT_OF_MEMORY = 12
    STOPPED = 13
    CANCELLED = 14


class TrainingError(Exception):
    """Base of what the library raises on purpose.

    Args:
        message: A sentence safe to show to the job's owner: names the place and the remedy, quotes no row content.
        param: Field of the job that is at fault (``training_file``, ``method.nlft.hyperparameters.learning_rate``).
    """

    code: ClassVar[str] = "internal_error"
    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message, param)
        self.message = message
        self.param = param

    def __str__(self) -> str:
        """Return the message alone."""
        return self.message


@dataclass(frozen=True, slots=True)
class RowProblem:
    """One fault in a dataset: 1-based ``line``, field ``path`` (``messages[0].role``), machine ``code``, ``reason``."""

    line: int
    path: str
    code: str
    reason: str

    def __str__(self) -> str:
        """Return ``line 17: messages[0].role: reason``."""
        return f"line {self.line}: {self.path}: {self.reason}" if self.path else f"line {self.line}: {self.reason}"


class DatasetError(TrainingError):
    """Rows that cannot be trained on. ``problems`` holds at most 100, ``total`` counts all."""

    code = "invalid_training_file"
    exit_code = ExitCode.DATA

    def __init__(self, problems: tuple[RowProblem, ...], total: int, param: str = "training_file") -> None:
        first = "; ".join(str(problem) for problem in problems[:5])
        more = f" (and {total - 5} more)" if total > 5 else ""
        super().__init__(f"{total} problem(s) in {param}: {first}{more}", param)
        self.args = (problems, total, param)
        self.problems = problems
        self.total = total


class SpecError(TrainingError):
    """The spec asks for something this library or this base model cannot do."""

    code = "invalid_hyperparameters"
    exit_code = ExitCode.CONFIGURATION


class PreviewTooLargeError(TrainingError):
    """The rows of a preview come to more tokens than it may have."""

    code = "too_many_tokens"
    exit_code = ExitCode.DATA


class BaseModelError(TrainingError):
    """The base model folder is missing, altered or not a decoder-only model."""

    code = "invalid_base_model"
    exit_code = ExitCode.CONFIGURATION


class DeviceOutOfMemoryError(TrainingError):
    """One micro-batch does not fit the device."""

    code = "out_of_memory"
    exit_code = ExitCode.OUT_OF_MEMORY


class NonFiniteLossError(TrainingError):
    """The loss or the gradient became infinite or NaN."""

    code = "non_finite_loss"
    exit_code = ExitCode.DATA


class StageError(TrainingError):
    """A building stage left nothing to train on, or could not be done; ``code`` names the stage."""

    exit_code = ExitCode.DATA

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message, param)
        self.args = (code, message, param)
        self.code = code  # type: ignore[misc]  # the one error whose code depends on where it happened


class RankLostError(TrainingError):
    """One of the processes of a run is gone, so the others cannot go on."""

    code = "rank_lost"


class CheckpointError(TrainingError):
    """A checkpoint folder is incomplete or does not match the spec."""

    code = "invalid_checkpoint"


class TrainingInterrupted(Exception):  # noqa: N818 - the parent asked for it, so it is no error
    """The parent asked the run to end early."""

    exit_code: ClassVar[ExitCode]


class TrainingStopped(TrainingInterrupted):
    """The run wrote a checkpoint and ended; a later run continues from it."""

    exit_code = ExitCode.STOPPED


class TrainingCancelled(TrainingInterrupted):
    """The run ended and keeps nothing."""

    exit_code = ExitCode.CANCELLED

"""Where a run stands: the data cursor, the figures so far, early stopping. What a checkpoint stores beside tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from worker.training.engine.memory import MemoryRung
from worker.training.events import MetricsEvent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.training.engine.step import StepResult


class StepRecord(msgspec.Struct):
    """Figures of one optimizer step, a row of ``metrics.csv``. Units as in ``events.MetricsEvent``."""

    step: int
    epoch: float
    train_loss: float
    train_mean_token_accuracy: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    extra: dict[str, float] = {}

    def to_event(self, total_steps: int) -> MetricsEvent:
        """Return the figures as they are told to the parent."""
        return MetricsEvent(
            step=self.step,
            total_steps=total_steps,
            epoch=self.epoch,
            train_loss=self.train_loss,
            train_mean_token_accuracy=self.train_mean_token_accuracy,
            learning_rate=self.learning_rate,
            grad_norm=self.grad_norm,
            tokens=self.tokens,
            seconds=self.seconds,
            valid_loss=self.valid_loss,
            valid_mean_token_accuracy=self.valid_mean_token_accuracy,
            extra=self.extra or None,
        )


class RowLoss(msgspec.Struct, array_like=True):
    """What one training row cost so far: its first and last loss, the sum over its passes, and their number."""

    first: float
    last: float
    total: float
    passes: int


class Progress(msgspec.Struct):
    """The state of the loop.

    Attributes:
        step: Optimizer steps made.
        epoch: Passes over the data completed.
        position: Examples of the current pass already trained.
        trained_tokens: Prompt and response tokens of all steps.
        records: Figures of every step.
        accuracy_before: Share of right generated answers before training; None: not measured.
        best_valid_loss: Lowest validation loss of an epoch.
        epochs_without_improvement: Since that epoch.
        stopped_early: Patience ran out.
        row_losses: Losses of the rows trained so far, by their index in the training data.
        weight_counts: Trained tokens by their weight, see ``engine.step``; empty where all weigh the same.
        memory: How much memory the last step's passes took; None in a checkpoint of an older version.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    trained_tokens: int = 0
    records: list[StepRecord] = []
    accuracy_before: float | None = None
    best_valid_loss: float | None = None
    epochs_without_improvement: int = 0
    stopped_early: bool = False
    row_losses: dict[int, RowLoss] = {}
    weight_counts: list[int] = []
    memory: MemoryRung | None = None

    def next_batch(self, rows: int, batch_size: int, seed: int) -> list[int]:
        """Return the indices of the next step's rows; their order depends on seed and epoch alone."""
        order = np.random.default_rng([seed, self.epoch]).permutation(rows)
        return [int(index) for index in order[self.position : self.position + batch_size]]

    def advance(
        self, result: StepResult, *, examples: int, rows: int, learning_rate: float, seconds: float
    ) -> StepRecord:
        """Move past a step on ``examples`` of the ``rows`` and return its record, also kept here."""
        self.step += 1
        self.position += examples
        self.trained_tokens += result.tokens
        record = StepRecord(
            step=self.step,
            epoch=self.epoch + self.position / rows,
            train_loss=result.loss,
            train_mean_token_accuracy=result.accuracy,
            learning_rate=learning_rate,
            grad_norm=result.grad_norm,
            tokens=result.tokens,
            seconds=seconds,
            extra=dict(result.metrics),
        )
        self.records.append(record)
        if self.position >= rows:
            self.epoch, self.position = self.epoch + 1, 0
        return record

    def note_tokens_and_rows(self, result: StepResult, rows: Sequence[int]) -> None:
        """Take in what the step on the rows of these indices cost, row by row, and how its tokens weighed."""
        for row, loss in zip(rows, result.losses, strict=True):
            known = self.row_losses.get(row, RowLoss(loss, loss, 0.0, 0))
            self.row_losses[row] = RowLoss(known.first, loss, known.total + loss, known.passes + 1)
        if result.weight_counts:
            counts = self.weight_counts or [0] * len(result.weight_counts)
            self.weight_counts = [old + new for old, new in zip(counts, result.weight_counts, strict=True)]

    def note_validation(self, loss: float, patience: int) -> None:
        """Take in an epoch's validation loss; without improvement for ``patience`` epochs (0: any) the run stops."""
        if loss < (math.inf if self.best_valid_loss is None else self.best_valid_loss):
            self.best_valid_loss, self.epochs_without_improvement = loss, 0
            return
        self.epochs_without_improvement += 1
        self.stopped_early = 0 < patience <= self.epochs_without_improvement

    def summary(self) -> dict[str, float]:
        """Return the latest figures: of the last step, and of the last validation."""
        if not self.records:
            return {}
        last = self.records[-1]
        found = {"train_loss": last.train_loss, "train_mean_token_accuracy": last.train_mean_token_accuracy}
        for record in reversed(self.records):
            if record.valid_loss is not None and record.valid_mean_token_accuracy is not None:
                validation = (record.valid_loss, record.valid_mean_token_accuracy)
                found |= dict(zip(("valid_loss", "valid_mean_token_accuracy"), validation, strict=True))
                break
        return found

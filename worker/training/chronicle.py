"""What is kept of a run for people to read: saliency of the pinned rows, what every row cost, the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.training.events import PhaseEvent
from worker.training.explaining.pinning import choose_pinned
from worker.training.explaining.recorder import SaliencyRecorder
from worker.training.explaining.row_losses import ROW_LOSSES_FILE, rank_rows, write_row_losses
from worker.training.report import REPORT_FILE, RunStory, write_report
from worker.training.spec import SALIENCY_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from worker.training.engine.progress import Progress
    from worker.training.engine.scoring import Scorer
    from worker.training.observer import Observer
    from worker.training.preparation import PreparedData, Recipe
    from worker.training.spec import TrainingSpec


class Chronicle:
    """Keeps the story of one run.

    Args:
        workspace: The run's folder.
        spec: What is run.
        recipe: Its method and hyperparameters.
        data: Its rows, and what is known about them.
        tokenizer: Of the base model.

    Raises:
        SpecError: A line that should be followed holds no row.
    """

    def __init__(
        self,
        workspace: Path,
        spec: TrainingSpec,
        recipe: Recipe,
        data: PreparedData,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self._spec = spec
        self._recipe = recipe
        self._data = data
        pinned = choose_pinned(data.rows, spec.saliency, spec.method)
        self._pinned = {data.rows[index].line: data.rows[index].example for index in pinned}
        self._recorder = SaliencyRecorder(workspace, recipe, [data.training[index] for index in pinned], tokenizer)

    @property
    def companions(self) -> Mapping[str, Path]:
        """Files that a checkpoint must carry along, by their name in it."""
        return {SALIENCY_FILE: self._recorder.history_file}

    def begin(self, scorer: Scorer, observer: Observer) -> None:
        """Record the pinned rows before the first step; call it inside ``scorer.attention()``."""
        if not self._recorder.is_idle:
            observer.emit(PhaseEvent("explaining"))
            self._recorder.record(scorer, 0, observer)

    def note_checkpoint(self, scorer: Scorer, progress: Progress, total_steps: int, observer: Observer) -> None:
        """Record the pinned rows beside a checkpoint, unless the last record is recent."""
        is_last = progress.step == total_steps or progress.stopped_early
        if self._recorder.is_due(progress.step, total_steps, is_last=is_last):
            self._recorder.record(scorer, progress.step, observer)

    def export(self, folder: Path, progress: Progress, metrics: Mapping[str, float]) -> None:
        """Write the artifacts for people into ``folder``; ``metrics`` are the run's final figures."""
        self._recorder.export(folder)
        costs = rank_rows(self._data.rows, progress.row_losses)
        write_row_losses(folder / ROW_LOSSES_FILE, costs)
        story = RunStory(
            spec=self._spec,
            recipe=self._recipe,
            steps=progress.records,
            metrics=metrics,
            trained_tokens=progress.trained_tokens,
            history=self._recorder.history(),
            pinned=self._pinned,
            costs=costs,
            weight_counts=progress.weight_counts,
            building=self._data.report,
            advice=self._data.advice,
        )
        write_report(folder / REPORT_FILE, story)

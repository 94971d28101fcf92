"""Follows the pinned rows through a run: records at step 0, beside checkpoints, and at the end.

``saliency/step-000025.jsonl`` holds the records of one step, ``saliency/history.jsonl`` those of all steps so far. The
history travels with every checkpoint, so that a resumed run tells the whole story.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import msgspec

from worker.training.events import SaliencyEvent
from worker.training.explaining.explanation import explain
from worker.training.saliency_record import SaliencyRecord
from worker.training.spec import SALIENCY_DIR, SALIENCY_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from worker.training.engine.prepared import PreparedExample
    from worker.training.engine.scoring import Scorer
    from worker.training.observer import Observer
    from worker.training.preparation import Recipe

_MOST_BETWEEN = 20
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(SaliencyRecord)


class SaliencyRecorder:
    """Records what the model makes of the pinned rows.

    Args:
        workspace: The run's folder.
        recipe: Method and hyperparameters of the run.
        pinned: Rendered rows to follow; none records nothing.
        tokenizer: Of the base model.
    """

    def __init__(
        self,
        workspace: Path,
        recipe: Recipe,
        pinned: Sequence[PreparedExample],
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self._folder = workspace / SALIENCY_DIR
        self._recipe = recipe
        self._pinned = pinned
        self._tokenizer = tokenizer

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to record."""
        return not self._pinned

    @property
    def history_file(self) -> Path:
        """All records so far, one a line, in the order of steps; absent before the first."""
        return self._folder / "history.jsonl"

    def history(self) -> list[SaliencyRecord]:
        """Return all records so far."""
        return [_decoder.decode(line) for line in self._lines()]

    def export(self, folder: Path) -> None:
        """Leave all records so far in ``folder``; nothing where there are none."""
        if self.history_file.exists():
            shutil.copyfile(self.history_file, folder / SALIENCY_FILE)

    def is_due(self, step: int, total_steps: int, *, is_last: bool) -> bool:
        """Return whether to record at a checkpoint after ``step``: the last always, and at most twenty before it."""
        if self.is_idle:
            return False
        latest = max((_decoder.decode(line).step for line in self._lines()[-1:]), default=-1)
        return step > latest and (is_last or step - max(latest, 0) >= total_steps / _MOST_BETWEEN)

    def record(self, scorer: Scorer, step: int, observer: Observer) -> None:
        """Write the records of ``step`` and tell ``observer``; call it inside ``scorer.attention()``.

        Raises:
            DeviceOutOfMemoryError: A single example does not fit the device.
        """
        method, chosen = self._recipe.method, self._recipe.hyperparameters
        records = explain(scorer, method, chosen, self._pinned, tokenizer=self._tokenizer, step=step)
        lines = _encoder.encode_lines(records)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"step-{step:06d}.jsonl"
        path.write_bytes(lines)
        with self.history_file.open("ab") as file:
            file.write(lines)
        observer.emit(SaliencyEvent(step, f"{SALIENCY_DIR}/{path.name}", len(records)))

    def _lines(self) -> list[bytes]:
        return self.history_file.read_bytes().splitlines() if self.history_file.exists() else []

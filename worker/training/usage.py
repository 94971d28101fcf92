"""What a run took: the figures that predictions of later runs are learned from (``estimation``)."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Literal

from worker.training.data.beginnings import count_common
from worker.training.estimation.pace import HIDDEN_STATE_BYTES
from worker.training.estimation.workload import BACKWARD_FACTOR, CHARACTERS, CountingRenderer, fit_scale, spare
from worker.training.events import Event, PhaseEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from worker.training.building.report import BuildReport
    from worker.training.engine.progress import Progress
    from worker.training.observer import Observer
    from worker.training.preparation import PreparedData, Recipe

_OTHER_PHASES = ("preparing", "explaining", "saving")
_LEAST_GENERATION_WORK = 0.5


class PhaseClock:
    """An observer that passes everything on and notes how long each phase takes.

    Args:
        observer: Who really watches.
        clock: Monotonic seconds.
    """

    def __init__(self, observer: Observer, clock: Callable[[], float] = time.monotonic) -> None:
        self._observer = observer
        self._clock = clock
        self._began = self._since = clock()
        self._phase: str | None = None
        self._spent: defaultdict[str, float] = defaultdict(float)

    def emit(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, PhaseEvent):
            self._close()
            self._phase = event.phase
        self._observer.emit(event)

    def stop_requested(self) -> Literal["stop", "cancel"] | None:
        """Return what the observer wants."""
        return self._observer.stop_requested()

    @property
    def seconds(self) -> float:
        """Since the clock was made."""
        return self._clock() - self._began

    def spent(self) -> Mapping[str, float]:
        """Return the seconds of every phase so far."""
        self._close()
        return self._spent

    def _close(self) -> None:
        now = self._clock()
        if self._phase is not None:
            self._spent[self._phase] += now - self._since
        self._since = now


def measure_usage(
    recipe: Recipe,
    data: PreparedData,
    progress: Progress,
    clock: PhaseClock,
    *,
    peak_memory_bytes: int,
    hidden_state_bytes: int,
    devices: int,
) -> dict[str, float]:
    """Return the figures of a run that is about to end.

    As in a prediction: ``rows``, ``steps``, ``trained_tokens``, ``scored_tokens``, ``generated_tokens`` (of responses),
    ``longest_sequence``, ``seconds`` (of this process), ``peak_memory_bytes``; and by the names of ``pace.Pace`` what
    they teach, for one of the ``devices``. Seconds a token are left out where too little was done to tell. Where this
    process has kept hidden states, their ``hidden_state_bytes``.
    """
    method, hyperparameters, prepared = recipe.method, recipe.hyperparameters, data.training
    passes = method.passes(hyperparameters)
    main = [one for one in passes if one.name == method.main_pass]
    read = sum(example.tokens(main) for example in prepared)
    texts = [text for example in prepared for text in example.texts(main)]
    spared = spare(count_common(*texts) if len(texts) > 1 else 0, hyperparameters.batch_size)
    work = sum(
        (len(text) - spared) * (BACKWARD_FACTOR if one.with_grad else 1)
        for example in prepared
        for one in passes
        if not one.cached
        for text in example.texts([one])
    )
    scored = sum(
        example.tokens([one]) * (max(1, progress.epoch) if one.renewed else 1)
        for example in prepared
        for one in passes
        if one.cached
    )
    spent = clock.spent()
    figures: dict[str, float] = {
        "rows": len(prepared),
        "steps": progress.step,
        "trained_tokens": progress.trained_tokens,
        "scored_tokens": scored,
        "generated_tokens": data.report.generated_tokens if data.report else 0,
        "longest_sequence": max(len(one.input_ids) for row in prepared for one in row.rendered.sequences.values()),
        "seconds": clock.seconds,
        "peak_memory_bytes": peak_memory_bytes,
        "other_seconds": sum(spent.get(phase, 0.0) for phase in _OTHER_PHASES),
    }
    training_seconds = devices * sum(record.seconds for record in progress.records)
    per_work = training_seconds / max(1.0, work * progress.trained_tokens / max(1, read))
    if hidden_state_bytes:
        figures[HIDDEN_STATE_BYTES] = hidden_state_bytes
    if progress.step and training_seconds:
        figures["seconds_per_work"] = per_work
    return figures | _of_texts(recipe, data) | _of_rollouts(data.report, spent.get("rollout", 0.0), per_work)


def _of_texts(recipe: Recipe, data: PreparedData) -> dict[str, float]:
    """Return how characters became tokens, by comparing every sequence with its text."""
    renderer = CountingRenderer(CHARACTERS)
    lengths = [
        (len(counted.input_ids), len(prepared.rendered.sequences[name].input_ids))
        for row, prepared in zip(data.rows, data.training, strict=True)
        for name, counted in recipe.method.render(row.example, renderer, recipe.hyperparameters).sequences.items()
    ]
    scale = fit_scale([characters for characters, _ in lengths], [tokens for _, tokens in lengths])
    return {} if scale is None else scale._asdict()


def _of_rollouts(report: BuildReport | None, seconds: float, per_work: float) -> dict[str, float]:
    if report is None or not report.responses or not report.response_tokens:
        return {}
    figures = {"response_tokens": report.response_tokens / report.responses}
    if report.base_accuracy is not None:
        figures["base_accuracy"] = report.base_accuracy
    each = seconds / report.response_tokens
    # Responses of an earlier run cost nothing here, and would teach that sampling is free.
    if each > _LEAST_GENERATION_WORK * per_work:
        figures["seconds_per_generated"] = each
    return figures

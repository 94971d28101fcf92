"""The training loop, top to bottom: prepare, measure, score what is cached, step, validate, checkpoint, export.

Knows no method by name. What runs is decided by ``TrainingSpec``, where it lies by the workspace (see ``spec``).
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from worker.training.building.kept_rows import KeptRows
from worker.training.completions import NoCompletions
from worker.training.engine.export import export_outputs
from worker.training.engine.memory import peak_memory_bytes
from worker.training.engine.parallel import ALONE, share_out
from worker.training.engine.runtime import configure_runtime
from worker.training.errors import TrainingStopped
from worker.training.evaluation import GenerationResult, evaluate_generation
from worker.training.events import (
    CheckpointEvent,
    EvaluationEvent,
    MessageEvent,
    PhaseEvent,
    ResultEvent,
)
from worker.training.run import OwnModel, Run, Surroundings, prepare_run
from worker.training.sharded_model import ShardedModel
from worker.training.spec import RESUME_DIR
from worker.training.usage import PhaseClock, measure_usage

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    from worker.training.completions import Completions
    from worker.training.engine.parallel import Ranks
    from worker.training.engine.progress import StepRecord
    from worker.training.engine.runtime import RandomState
    from worker.training.observer import Observer
    from worker.training.run import ModelSource
    from worker.training.spec import TrainingSpec


def train(
    workspace: Path,
    spec: TrainingSpec,
    observer: Observer,
    completions: Completions | None = None,
    models: ModelSource | None = None,
    *,
    ranks: Ranks = ALONE,
) -> ResultEvent:
    """Run ``spec`` on the inputs in ``workspace`` and leave the adapter in ``outputs/``.

    Continues from the checkpoint in ``resume/`` where there is one. Everything on the way is told to ``observer``; the
    returned result is the last word, left to the caller to report. ``completions`` answers graders and judges that ask
    endpoints; without it they get no answers. ``models`` shares a base model with other runs (``multi_lora``); without
    it the run loads its own. Of several ``ranks`` each makes this call, all but the first with an observer that hears
    nothing.

    Raises:
        TrainingError: The run cannot be done; see ``errors`` for the kinds.
        TrainingInterrupted: The observer asked for an early end.
    """
    configure_runtime(spec.runtime, spec.seed)
    observer = clock = PhaseClock(observer)
    observer.emit(PhaseEvent("preparing"))
    with ranks.connected():
        own = ShardedModel(ranks) if spec.runtime.shard_base and ranks.size > 1 else OwnModel()
        given = Surroundings(observer, completions or NoCompletions(), models or own, ranks)
        return _run(prepare_run(workspace, spec, given), clock)


def _run(run: Run, clock: PhaseClock) -> ResultEvent:
    generators = run.ranks.agree(lambda: _resume(run))
    if generators is None:
        run.progress.accuracy_before = _evaluate_generation(run, "before")
    with run.scorer.attention():
        if generators is None:
            run.ranks.on_first(lambda: _probe(run))
        if not _is_over(run):
            run.scores.prepare(run.scorer, run.progress, run.ranks, pulse=run.pulse, observer=run.observer)
        if generators is None:
            run.ranks.on_first(lambda: run.chronicle.begin(run.scorer, run.observer))
        else:
            generators.restore()
            # Not before the scores were filled in: they, too, must come out as in the run that was stopped.
            if run.progress.memory is not None:
                run.scorer.memory.descend_to(run.progress.memory)
        _train(run)
    accuracy_after = _evaluate_generation(run, "after")
    return run.ranks.on_first(lambda: _export(run, accuracy_after, clock))


def _resume(run: Run) -> RandomState | None:
    """Continue from ``resume/``; return the generators' state to set before the first step, None for a fresh run."""
    folder = run.workspace / RESUME_DIR
    if not folder.is_dir():
        return None
    run.progress, generators = run.checkpointer.restore(folder)
    run.saved_step = run.progress.step
    run.observer.emit(MessageEvent("info", f"Resumed after step {run.progress.step} of {run.total_steps}."))
    return generators


def _evaluate_generation(run: Run, stage: Literal["before", "after"]) -> float | None:
    """Return the share of right generated answers to the validation rows; None when there is nothing to ask."""
    if not run.data.asked:
        return None
    run.enter("evaluating")
    started = time.monotonic()
    # The fresh adapter has no effect yet, only costs.
    with run.adapted.disable_adapter() if stage == "before" else nullcontext():
        result = _answer_together(run)
    seconds = time.monotonic() - started
    run.observer.emit(EvaluationEvent(stage, result.accuracy, result.correct, result.total, seconds))
    return result.accuracy


def _answer_together(run: Run) -> GenerationResult:
    """Return the graded answers to the validation rows, each given by one of the ranks."""
    shares = share_out([1] * len(run.data.asked), run.ranks.size)  # how long an answer gets is not known before
    rows = [run.data.asked[index] for index in shares[run.ranks.rank]]
    parts = run.ranks.gather(
        lambda: evaluate_generation(run.loaded, run.renderer, rows, run.spec.evaluation, on_progress=run.pulse.beat)
    )
    placed = {
        index: answer
        for share, part in zip(shares, parts, strict=True)
        for index, answer in zip(share, part.answers, strict=True)
    }
    return GenerationResult(tuple(placed[index] for index in range(len(placed))))


def _probe(run: Run) -> None:
    """Let the method look at a sample with the untrained model and say what it means for the run."""
    probe, chosen = run.recipe.method.probe, run.recipe.hyperparameters
    if probe is None or not run.data.probed:
        return
    run.enter("scoring")
    batch = run.scorer.measure(run.data.probed, probe.passes(chosen))
    finding = probe.diagnose(batch, chosen)
    run.observer.emit(MessageEvent(finding.level, finding.message, dict(finding.data)))


def _train(run: Run) -> None:
    """Make optimizer steps until the last epoch is over or patience runs out."""
    chosen, progress = run.recipe.hyperparameters, run.progress
    run.enter("training")
    while not _is_over(run):
        _renew_scores(run)
        started = time.monotonic()
        rows = progress.next_batch(len(run.data.training), chosen.batch_size, run.spec.seed)
        examples = [run.data.training[index] for index in rows]
        run.ranks.seed_step(run.spec.seed, progress.step + 1)
        try:
            result = run.stepper.train(
                examples, run.optimizer, progress.step + 1, lambda: run.pulse.beat(progress.step, run.total_steps)
            )
        except TrainingStopped:
            _save_checkpoint(run)
            raise
        progress.note_tokens_and_rows(result, rows)
        record = progress.advance(
            result,
            examples=len(examples),
            rows=len(run.data.training),
            learning_rate=run.optimizer.learning_rate(progress.step + 1),
            seconds=time.monotonic() - started,
        )
        if progress.position == 0:
            _validate(run, record)
        _tell_step(run, record)
        if _is_checkpoint_due(run):
            run.ranks.on_first(
                lambda: run.chronicle.note_checkpoint(run.scorer, progress, run.total_steps, run.observer)
            )
            _save_checkpoint(run)


def _renew_scores(run: Run) -> None:
    """Where the method wants it, score the contexts again before an epoch."""
    if run.progress.position != 0:
        return
    try:
        has_scored = run.scores.prepare(run.scorer, run.progress, run.ranks, pulse=run.pulse, observer=run.observer)
    except TrainingStopped:
        _save_checkpoint(run)
        raise
    if has_scored:
        run.enter("training")


def _validate(run: Run, record: StepRecord) -> None:
    """Compute loss and accuracy on the validation rows, enter them into ``record``, and run out of patience or not."""
    if not run.data.validation:
        return
    run.enter("evaluating")
    # A stop waits for the end of this pass: half an epoch's end could not be resumed.
    result = run.stepper.evaluate(run.data.validation, run.pulse.report)
    record.valid_loss, record.valid_mean_token_accuracy = result.loss, result.accuracy
    run.progress.note_validation(result.loss, run.recipe.hyperparameters.early_stopping_patience)
    if run.progress.stopped_early:
        epochs = run.progress.epochs_without_improvement
        message = f"Stopped early: the validation loss has not improved for {epochs} epoch(s)."
        run.observer.emit(MessageEvent("info", message, {"best_valid_loss": run.progress.best_valid_loss}))
    run.enter("training")


def _tell_step(run: Run, record: StepRecord) -> None:
    if run.scorer.memory.rung != run.progress.memory:
        run.progress.memory = run.scorer.memory.rung
        run.observer.emit(MessageEvent("warn", f"Memory ran short: {run.scorer.memory.describe()} from now on."))
    run.observer.emit(record.to_event(run.total_steps))


def _is_over(run: Run) -> bool:
    return run.progress.step >= run.total_steps or run.progress.stopped_early


def _is_checkpoint_due(run: Run) -> bool:
    every = run.spec.runtime.checkpoint_steps
    return _is_over(run) or (run.progress.step % every == 0 if every else run.progress.position == 0)


def _save_checkpoint(run: Run) -> None:
    """Write a checkpoint unless this very state has one: the parent may be reading it."""
    if run.progress.step == run.saved_step:
        return
    run.saved_step = run.progress.step
    run.ranks.require_equal(run.optimizer.digest(), f"the adapter after step {run.saved_step}")
    path = run.ranks.on_first(lambda: run.checkpointer.save(run.progress))
    run.observer.emit(CheckpointEvent(run.progress.step, path, run.progress.summary()))


def _export_for_people(run: Run, metrics: dict[str, float], folder: Path) -> None:
    KeptRows.of_workspace(run.workspace).export(folder)
    run.chronicle.export(folder, run.progress, metrics)


def _export(run: Run, accuracy_after: float | None, clock: PhaseClock) -> ResultEvent:
    """Write the artifacts and return the result."""
    run.enter("saving")
    measured = {"accuracy_before": run.progress.accuracy_before, "accuracy_after": accuracy_after}
    metrics = run.progress.summary() | {name: value for name, value in measured.items() if value is not None}
    export_outputs(
        run.workspace,
        run.spec.model_copy(update={"hyperparameters": run.recipe.hyperparameters.spelled_out()}),
        run.adapted,
        run.loaded.tokenizer,
        records=run.progress.records,
        metrics=metrics,
        write_more=partial(_export_for_people, run, metrics),
    )
    usage = measure_usage(
        run.recipe,
        run.data,
        run.progress,
        clock,
        peak_memory_bytes=peak_memory_bytes(run.loaded.device),
        hidden_state_bytes=run.scorer.hidden_state_bytes,
        devices=run.ranks.size,
    )
    return ResultEvent(run.progress.trained_tokens, run.progress.step, metrics, usage)

"""Writes ``report.html``: template, style and script of this package filled with the story of a run.

The page forbids itself every request, and any script or style but its own two, so that nothing in a row can ask for
anything or run, even if it escaped being escaped.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from worker.training.building.report import (
    describe_grading,
    describe_judging,
    describe_rationalization,
    describe_rollout,
    describe_rows,
)
from worker.training.engine.step import WEIGHT_BIN
from worker.training.report.charts import SMOOTHED, Chart, Series, draw_curves, draw_histogram, smooth
from worker.training.report.heatmap import LEVELS, ShownExample, show_example
from worker.training.report.story import tell_question

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from worker.training.building.report import BuildReport
    from worker.training.report.story import RunStory
    from worker.training.saliency_record import SaliencyRecord

REPORT_FILE = "report.html"
_DEAREST_ROWS = 12
_SMOOTHED_FROM = 24


def write_report(path: Path, story: RunStory) -> None:
    """Write the report of ``story`` to ``path``."""
    path.write_text(render_report(story), encoding="utf-8")


def render_report(story: RunStory) -> str:
    """Return the report as one HTML document."""
    environment = Environment(
        loader=PackageLoader("worker.training.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = environment.get_template("style.css").render(levels=LEVELS)
    script = environment.get_template("script.js").render()
    return environment.get_template("report.html").render(
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; base-uri 'none'; "
        "form-action 'none'",
        story=story,
        spec=story.spec,
        method=story.recipe.method,
        figures=_figures(story),
        charts=_charts(story),
        examples=_examples(story),
        building=_building(story.building),
        costs=[(cost, tell_question(cost.example)) for cost in story.costs[:_DEAREST_ROWS]],
        settings=_settings(story),
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _figures(story: RunStory) -> list[tuple[str, str, str]]:
    """Return name, value and remark of the figures on top."""
    found: list[tuple[str, str, str]] = []
    metrics = story.metrics
    if "accuracy_after" in metrics:
        before = metrics.get("accuracy_before")
        remark = "" if before is None else f"from {before:.1%} before training"
        found.append(("Accuracy of generated answers", f"{metrics['accuracy_after']:.1%}", remark))
    if story.steps:
        first, last = story.steps[0], story.steps[-1]
        found.append(("Training loss", f"{last.train_loss:.3f}", f"from {first.train_loss:.3f} at step 1"))
    validated = [step.valid_loss for step in story.steps if step.valid_loss is not None]
    if validated:
        found.append(("Validation loss", f"{validated[-1]:.3f}", f"best of an epoch {min(validated):.3f}"))
    wrong = sum(not cost.is_right for cost in story.costs)
    remark = f"{len(story.costs) - wrong} right, {wrong} wrong" if wrong else ""
    found.append(("Training rows", f"{len(story.costs):,}", remark))
    epochs = f"{story.steps[-1].epoch:.3g} epochs" if story.steps else ""
    found.append(("Optimizer steps", f"{len(story.steps):,}", epochs))
    seconds = sum(step.seconds for step in story.steps)
    found.append(("Trained tokens", f"{story.trained_tokens:,}", f"{_duration(seconds)} in optimizer steps"))
    return found


def _building(report: BuildReport | None) -> list[str]:
    """Return what became of the questions, a sentence for each stage that had something to do."""
    if report is None:
        return []
    told = []
    if report.responses:
        told.append(describe_rollout(report))
    if report.graded:
        told.append(describe_grading(report))
    if report.rationalized:
        told.append(describe_rationalization(report))
    if report.judged:
        told.append(describe_judging(report))
    return [*told, describe_rows(report)]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _charts(story: RunStory) -> list[Chart]:
    steps = story.steps
    losses = [(float(step.step), step.train_loss) for step in steps]
    many = len(losses) >= _SMOOTHED_FROM
    train = [Series("faint" if many else "train", "training", losses)]
    if many:
        train.append(Series(SMOOTHED, "training, running mean", smooth(losses, len(losses) // 12)))
    validation = [(float(step.step), step.valid_loss) for step in steps if step.valid_loss is not None]
    hits = [(float(step.step), step.train_mean_token_accuracy) for step in steps]
    held_out = [
        (float(step.step), step.valid_mean_token_accuracy)
        for step in steps
        if step.valid_mean_token_accuracy is not None
    ]
    accuracy = [
        Series("train", "training", smooth(hits, len(hits) // 12) if many else hits),
        Series("valid", "validation", held_out, dotted=True),
    ]
    drawn = (
        draw_curves("Loss", [*train, Series("valid", "validation", validation, dotted=True)]),
        draw_curves("Accuracy: scored tokens that were the likeliest", accuracy, percent=True),
        draw_histogram("Trained tokens by weight, all steps", story.weight_counts, WEIGHT_BIN),
    )
    return [chart for chart in drawn if chart is not None]


def _examples(story: RunStory) -> list[ShownExample]:
    records: dict[int, list[SaliencyRecord]] = {}
    for record in story.history:
        records.setdefault(record.example.file_line, []).append(record)
    shown = [show_example(story.pinned[line], found) for line, found in records.items() if found[0].tokens]
    return sorted(shown, key=lambda example: (example.verdict == "wrong", example.line))


def _settings(story: RunStory) -> list[tuple[str, Sequence[tuple[str, Any, bool]]]]:
    """Return groups of settings: name, value, and whether it differs from the default."""
    recipe, spec = story.recipe, story.spec
    usual = type(recipe.hyperparameters)().model_dump()
    chosen = recipe.hyperparameters.model_dump()
    adapter = spec.adapter.model_dump()
    usual_adapter = type(spec.adapter)().model_dump()
    base = [("name", spec.base_model.name), ("digest", spec.base_model.digest), ("seed", spec.seed)]
    return [
        ("Hyperparameters", [(name, value, value != usual[name]) for name, value in chosen.items()]),
        ("Adapter", [(name, value, value != usual_adapter[name]) for name, value in adapter.items()]),
        ("Base model and seed", [(name, value, False) for name, value in base]),
    ]

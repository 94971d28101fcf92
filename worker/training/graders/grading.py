"""Scores responses with any grader of the spec."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from worker.training.completions import Completions
from worker.training.graders.final_answer import is_correct
from worker.training.graders.samples import Grade, Sample, failed, kind_of
from worker.training.graders.score_model import ask_models
from worker.training.graders.similarity import TextTooLongError, measure_similarity
from worker.training.spec import (
    FinalAnswerGrader,
    Grader,
    MultiGrader,
    ScoreModelGrader,
    StringCheckGrader,
    TextSimilarityGrader,
)
from worker.training.syntax.formulas import FormulaError, evaluate
from worker.training.syntax.templates import TemplateError, render


def _ignore(_done: int, _total: int) -> None:
    """Progress that nobody wants."""


def grade(
    grader: Grader,
    sample: Sample,
    completions: Completions | None = None,
    on_done: Callable[[int, int], None] = _ignore,
) -> Grade:
    """Return what ``grader`` says of one response; see ``grade_all``."""
    return grade_all(grader, [sample], completions, on_done)[0]


def grade_all(
    grader: Grader,
    samples: Sequence[Sample],
    completions: Completions | None = None,
    on_done: Callable[[int, int], None] = _ignore,
) -> list[Grade]:
    """Return a grade per sample, in their order. A response that cannot be scored has errors; nothing raises for it.

    Args:
        grader: How to score.
        samples: Responses with their rows.
        completions: Answers what `score_model` graders ask; None where the grader has none.
        on_done: Called with what is done and what there is to do; may raise to give up.
    """
    parts = grader.graders if isinstance(grader, MultiGrader) else {grader.name: grader}
    models = {name: part for name, part in parts.items() if isinstance(part, ScoreModelGrader)}
    columns: dict[str, list[Grade]] = ask_models(models, samples, completions, on_done) if models else {}
    for name, part in parts.items():
        if not isinstance(part, ScoreModelGrader):
            columns[name] = [_grade_locally(part, sample) for sample in samples]
    if not models:
        on_done(len(samples), len(samples))
    if not isinstance(grader, MultiGrader):
        return columns[grader.name]
    return [_combine(grader, {name: columns[name][index] for name in parts}) for index in range(len(samples))]


def _grade_locally(grader: FinalAnswerGrader | StringCheckGrader | TextSimilarityGrader, sample: Sample) -> Grade:
    values = sample.values()
    if isinstance(grader, FinalAnswerGrader):
        reference = sample.item.get("reference")
        if not isinstance(reference, str):
            return failed("invalid_variable_error", "final_answer compares with item.reference, and the row has none")
        return Grade(float(is_correct(sample.text, reference, grader)))
    try:
        given, wanted = render(grader.input, values), render(grader.reference, values)
    except TemplateError as error:
        return failed(kind_of(error), str(error))
    if isinstance(grader, StringCheckGrader):
        return Grade(float(_check(grader.operation, given, wanted)))
    try:
        return Grade(measure_similarity(grader.evaluation_metric, given, wanted))
    except TextTooLongError as error:
        return failed("other_error", str(error))


def _check(operation: str, given: str, wanted: str) -> bool:
    """Return whether ``given`` equals, differs from or contains ``wanted`` (`ilike`: whatever the case)."""
    match operation:
        case "eq":
            return given == wanted
        case "ne":
            return given != wanted
        case "like":
            return wanted in given
        case _:
            return wanted.casefold() in given.casefold()


def _combine(grader: MultiGrader, parts: Mapping[str, Grade]) -> Grade:
    scores = {name: part.score for name, part in parts.items()}
    errors = tuple(error for part in parts.values() for error in part.errors)
    tokens: Counter[str] = Counter()
    for part in parts.values():
        tokens.update(part.tokens)
    if errors:
        return Grade(0.0, scores, errors, tokens)
    try:
        return Grade(evaluate(grader.calculate_output, scores), scores, tokens=tokens)
    except FormulaError as error:
        return Grade(0.0, scores, failed("other_error", str(error)).errors, tokens)

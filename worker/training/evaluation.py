"""Measures a model by what it answers: generated responses, graded against the rows' references."""

from collections.abc import Sequence
from dataclasses import dataclass

from worker.training.data.examples import NLFTExample
from worker.training.data.rendering import ModelRenderer
from worker.training.generation import Decoding, Generated, Progress, generate
from worker.training.graders import grade, sample_of
from worker.training.model.base_model import LoadedModel
from worker.training.spec import EvaluationSettings


@dataclass(frozen=True, slots=True)
class GradedAnswer:
    """What the model answered to one row, and whether it is right; ``is_finished`` False: cut off by the limit."""

    response: str
    is_correct: bool
    is_finished: bool


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """Graded answers in the order of the rows."""

    answers: tuple[GradedAnswer, ...]

    @property
    def total(self) -> int:
        """How many rows were answered."""
        return len(self.answers)

    @property
    def correct(self) -> int:
        """How many answers are right."""
        return sum(answer.is_correct for answer in self.answers)

    @property
    def accuracy(self) -> float:
        """Share of right answers in [0, 1]; 0 without rows."""
        return self.correct / self.total if self.answers else 0.0


def select_rows(examples: Sequence[object], settings: EvaluationSettings) -> list[NLFTExample]:
    """Return the examples to generate for: the first ``max_examples`` that carry a reference."""
    with_reference = (row for row in examples if isinstance(row, NLFTExample) and row.reference is not None)
    return [row for row, _ in zip(with_reference, range(settings.max_examples), strict=False)]


def evaluate_generation(
    loaded: LoadedModel,
    renderer: ModelRenderer,
    rows: Sequence[NLFTExample],
    settings: EvaluationSettings,
    *,
    on_progress: Progress | None = None,
) -> GenerationResult:
    """Answer ``rows`` greedily with the model as it is, adapter on or off, and grade the answers.

    Args:
        loaded: The model in eval mode.
        renderer: Of the model's tokenizer.
        rows: Rows with a reference, see ``select_rows``.
        settings: Batch size, longest answer and grader.
        on_progress: Called with answers done and answers in all after every token; may raise to give up.
    """
    prompts = [renderer.prompt(row.prompt, row.tools) for row in rows]
    stop_ids = frozenset({renderer.end_of_turn_id, int(loaded.tokenizer.eos_token_id)})
    decoding = Decoding(settings.max_new_tokens, settings.batch_size, context_length=loaded.context_length)
    generated = generate(loaded.model, prompts, stop_ids, decoding, on_progress=on_progress)
    return GenerationResult(
        tuple(_graded(answer, row, loaded, settings) for answer, row in zip(generated, rows, strict=True))
    )


def _graded(answer: Generated, row: NLFTExample, loaded: LoadedModel, settings: EvaluationSettings) -> GradedAnswer:
    response = str(loaded.tokenizer.decode(answer.ids, skip_special_tokens=True))
    score = grade(settings.grader, sample_of(row, response)).score
    return GradedAnswer(response, score >= settings.pass_threshold, answer.is_finished)

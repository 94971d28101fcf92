"""What a report tells: the facts of one finished run, all free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.training.data.examples import CompletionExample, NLFTExample

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.training.advice import Advice
    from worker.training.building.report import BuildReport
    from worker.training.data.examples import Example, Message
    from worker.training.engine.progress import StepRecord
    from worker.training.explaining.row_losses import RowCost
    from worker.training.preparation import Recipe
    from worker.training.saliency_record import SaliencyRecord
    from worker.training.spec import TrainingSpec


@dataclass(frozen=True, slots=True)
class RunStory:
    """One run.

    Attributes:
        spec: What was run.
        recipe: Its method and complete hyperparameters.
        steps: Figures of every optimizer step.
        metrics: Final figures: losses, and the accuracies of generated answers where they were measured.
        trained_tokens: Prompt and response tokens of all steps.
        history: Saliency records in the order of steps; empty where no row was followed.
        pinned: The followed rows by their line.
        costs: What every row cost, dearest first.
        weight_counts: Trained tokens in bins of weight; empty where all weigh the same.
        building: What the building stages made; None where every row came complete.
        advice: What deserves a look in the rows.
    """

    spec: TrainingSpec
    recipe: Recipe
    steps: Sequence[StepRecord]
    metrics: Mapping[str, float]
    trained_tokens: int
    history: Sequence[SaliencyRecord]
    pinned: Mapping[int, Example]
    costs: Sequence[RowCost]
    weight_counts: Sequence[int]
    building: BuildReport | None = None
    advice: Sequence[Advice] = ()


def tell_turns(example: Example) -> list[tuple[str, str]]:
    """Return role and text of every turn that the scored text of a row answers; a raw prompt has the role `prompt`."""
    if isinstance(example, CompletionExample):
        return [("prompt", example.prompt)]
    messages = example.prompt if isinstance(example, NLFTExample) else example.messages
    return [(message.role, _tell(message)) for message in messages]


def tell_question(example: Example) -> str:
    """Return the last thing that was asked in a row."""
    asked = [text for role, text in tell_turns(example) if role in {"user", "prompt"}]
    return asked[-1] if asked else ""


def _tell(message: Message) -> str:
    calls = (f"{call.function.name}({call.function.arguments})" for call in message.tool_calls or ())
    return "\n".join(filter(None, (message.text or message.refusal, *calls)))

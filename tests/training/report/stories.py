"""Runs to report on, made up: every kind of token, hostile texts, any number of steps."""

from typing import Any

from worker.training.data.examples import Example, Message, NLFTExample
from worker.training.engine.progress import StepRecord
from worker.training.explaining.row_losses import RowCost
from worker.training.methods import METHODS
from worker.training.preparation import Recipe
from worker.training.report import RunStory
from worker.training.saliency_record import ExampleRef, SaliencyRecord, SaliencyToken
from worker.training.spec import BaseModelRef, TrainingSpec

HOSTILE = """</script></style><script>window.broken = 1</script><img src="https://evil.example/x.png"
onerror="window.broken = 2">
"><svg onload=window.broken=3> {{ 7 * 7 }} ' &lt; \u202e"""
RIGHT = NLFTExample([Message("user", "What is 2 + 3?")], response="2 + 3 = 5", reference="#### 5", correct=True)
WRONG = NLFTExample(
    [Message("system", "Be brief."), Message("user", "What is 2 + 4?")],
    response="It is 7",
    reference="#### 6",
    judgment="2 + 4 is 6, not 7.",
    correct=False,
)


def step_record(step: int, *, valid: bool = False) -> StepRecord:
    measured: dict[str, Any] = {"valid_loss": 1.5 / step, "valid_mean_token_accuracy": 0.7} if valid else {}
    return StepRecord(
        step=step,
        epoch=step / 2,
        train_loss=2.0 / step,
        train_mean_token_accuracy=1 - 0.5 / step,
        learning_rate=1e-3,
        grad_norm=1.0,
        tokens=100,
        seconds=0.5,
        **measured,
    )


def record(line: int, correct: bool | None, step: int, *tokens: SaliencyToken) -> SaliencyRecord:
    total = sum(token.weight for token in tokens)
    return SaliencyRecord(ExampleRef(line, correct), step, 1.0 / (step + 1), total, list(tokens))


def token(text: str, base: float, weight: float = 0.5, **fields: Any) -> SaliencyToken:
    known: dict[str, Any] = {"frozen_base": None, "reference": 0.9, "judgment": None, "class_": "other"}
    known |= {"direction": "raise", "id": 7}
    return SaliencyToken(text=text, base=base, weight=weight, **(known | fields))


def story(**changes: Any) -> RunStory:
    """Return a run of NLFT over two rows and four steps; ``changes`` replace its fields."""
    method = METHODS["nlft"]
    lowered = {"class_": "salient", "direction": "lower", "judgment": 0.8}
    history = [
        found
        for step, base in ((0, 0.2), (2, 0.5), (4, 0.9))
        for found in (
            record(1, True, step, token("2", base, 1.8, class_="salient"), token(" +\n", base), token("", 0.5)),
            record(
                2,
                False,
                step,
                token("It", base),
                token(" 7", 1 - base, 1.2, **lowered),
                token("<|im_end|>", 0.99, 0.0, direction="none"),
            ),
        )
    ]
    fields: dict[str, Any] = {
        "spec": TrainingSpec(
            job_id="ftjob-1",
            base_model=BaseModelRef(name="tiny", path="/secret/models/tiny", digest="0" * 64),
            method="nlft",
            hyperparameters={},
        ),
        "recipe": Recipe(method, method.hyperparameters_type.model_validate({"n_epochs": 2, "batch_size": 1})),
        "steps": [step_record(step, valid=step % 2 == 0) for step in range(1, 5)],
        "metrics": {"accuracy_before": 0.25, "accuracy_after": 0.75},
        "trained_tokens": 400,
        "history": history,
        "pinned": {1: RIGHT, 2: WRONG},
        "costs": [cost(2, WRONG, 2.0), cost(1, RIGHT, 1.0)],
        "weight_counts": [1, 0, 5, *[2] * 37],
    }
    return RunStory(**(fields | changes))


def cost(line: int, example: Example, mean: float) -> RowCost:
    return RowCost(line, example, passes=2, first_loss=mean + 1, last_loss=mean - 1, mean_loss=mean, share=mean / 3)

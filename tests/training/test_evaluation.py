import pytest
import torch

from tests.fixtures.tiny_models import TinyModel, reference_to
from worker.training.data.examples import CompletionExample, Message, NLFTExample
from worker.training.data.rendering import ModelRenderer
from worker.training.evaluation import GenerationResult, GradedAnswer, evaluate_generation, select_rows
from worker.training.model.base_model import LoadedModel, load_base_model
from worker.training.spec import EvaluationSettings, RuntimeSettings

QUESTION = [Message("user", "How many?")]


@pytest.fixture
def parrot(tiny_model: TinyModel) -> LoadedModel:
    """Return a model that answers everything with one digit and ends its turn only at the limit."""
    loaded = load_base_model(reference_to(tiny_model("gpt2")), RuntimeSettings(device="cpu", dtype="float32"))
    digit = loaded.tokenizer("7").input_ids[0]
    parameter = loaded.model.get_parameter
    with torch.no_grad():
        parameter("transformer.ln_f.weight").zero_()
        parameter("transformer.ln_f.bias").copy_(parameter("transformer.wte.weight")[digit] * 100)
    return loaded


def test_rows_with_a_reference_are_asked_from_the_top() -> None:
    rows = [NLFTExample(QUESTION, reference=str(number)) for number in range(5)]
    mixed = [CompletionExample("p", "c"), NLFTExample(QUESTION, "r"), *rows]
    assert select_rows(mixed, EvaluationSettings(max_examples=3)) == rows[:3]


def test_answers_are_generated_and_graded_by_value(parrot: LoadedModel) -> None:
    rows = [NLFTExample(QUESTION, reference=reference) for reference in ("#### 77", "78", "77.0")]
    settings = EvaluationSettings(max_new_tokens=2)
    result = evaluate_generation(parrot, ModelRenderer(parrot.tokenizer), rows, settings)
    assert [answer.response for answer in result.answers] == ["77"] * 3
    assert [answer.is_correct for answer in result.answers] == [True, False, True]
    assert (result.correct, result.total) == (2, 3)
    assert result.accuracy == pytest.approx(2 / 3)
    assert not any(answer.is_finished for answer in result.answers)


def test_any_grader_without_endpoint_and_any_threshold_will_do(parrot: LoadedModel) -> None:
    close = {
        "type": "text_similarity",
        "name": "close",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.reference }}",
        "evaluation_metric": "fuzzy_match",
    }
    rows = [NLFTExample(QUESTION, reference=reference) for reference in ("77", "78", "88")]
    for threshold, correct in ((0.5, 2), (0.6, 1), (0.0, 3)):
        settings = EvaluationSettings.model_validate(
            {"max_new_tokens": 2, "grader": close, "pass_threshold": threshold}
        )
        assert evaluate_generation(parrot, ModelRenderer(parrot.tokenizer), rows, settings).correct == correct


def test_nothing_asked_is_accuracy_0() -> None:
    assert GenerationResult(()).accuracy == 0.0
    assert GenerationResult((GradedAnswer("1", is_correct=True, is_finished=True),)).accuracy == 1.0

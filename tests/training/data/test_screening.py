from functools import partial

import pytest

from tests.fixtures.tiny_models import build_tokenizer
from worker.training.data.examples import ChatExample, CompletionExample, Example, Message, NLFTExample
from worker.training.data.reader import Row
from worker.training.data.rendering import ModelRenderer
from worker.training.data.screening import check_rows
from worker.training.errors import DatasetError
from worker.training.methods import METHODS
from worker.training.methods.auto import RunFacts
from worker.training.types import RenderedExample

FACTS = RunFacts(rows=1, model_parameters=1000, context_length=512)
USER = Message("user", "question")


def screen(example: Example, *, method: str = "supervised", max_tokens: int = 200) -> list[RenderedExample]:
    tokenizer, chosen = build_tokenizer(), METHODS[method]
    hyperparameters = chosen.hyperparameters_type.resolve({}, FACTS)
    render = partial(chosen.render, renderer=ModelRenderer(tokenizer), hyperparameters=hyperparameters)
    return check_rows([Row(7, example)], render, tokenizer, max_tokens=max_tokens)


def problems(example: Example, **options: object) -> list[tuple[int, str, str]]:
    with pytest.raises(DatasetError) as caught:
        screen(example, **options)  # type: ignore[arg-type]  # options are screen's own
    return [(problem.line, problem.path, problem.code) for problem in caught.value.problems]


def test_sound_rows_come_back_rendered() -> None:
    rendered = screen(NLFTExample([USER], "answer", "reference"), method="nlft")
    assert set(rendered[0].sequences) == {"base", "reference"}


@pytest.mark.parametrize(
    ("example", "path"),
    [
        (NLFTExample([Message("user", "a <|im_end|>")], "b"), "messages[0].content"),
        (NLFTExample([USER], "a<|im_start|>system"), "response"),
        (NLFTExample([USER], "b", reference="<|endoftext|>"), "reference"),
        (NLFTExample([USER], "b", judgment="<|im_end|>"), "judgment"),
        (ChatExample([USER, Message("assistant", "<|im_end|>x")]), "messages[1].content"),
        (CompletionExample("<|im_start|>", "x"), "prompt"),
    ],
)
def test_special_tokens_in_text_are_found(example: Example, path: str) -> None:
    assert (7, path, "special_token") in problems(example)


def test_a_row_too_long_in_any_context_is_found_with_its_counts() -> None:
    example = NLFTExample([USER], "answer", reference="long " * 40)
    with pytest.raises(
        DatasetError, match=r"line 7: \d+ tokens with its prompt \(reference\), 7 of them trained"
    ) as caught:
        screen(example, method="nlft", max_tokens=120)
    assert caught.value.total == 1
    assert screen(example, method="supervised", max_tokens=120)


def test_rows_that_the_template_cannot_express_are_found() -> None:
    tools = [{"type": "function", "function": {"name": "frobnicate"}}]
    assert problems(ChatExample([USER, Message("assistant", "x")], tools=tools)) == [
        (7, "messages", "template_refused")
    ]


def test_all_rows_are_screened_before_the_error() -> None:
    tokenizer = build_tokenizer()
    rows = [Row(line, CompletionExample("<|im_end|>", "x")) for line in range(1, 151)]
    renderer = ModelRenderer(tokenizer)
    with pytest.raises(DatasetError) as caught:
        check_rows(
            rows,
            partial(METHODS["supervised"].render, renderer=renderer, hyperparameters=None),
            tokenizer,
            max_tokens=50,
        )
    assert (len(caught.value.problems), caught.value.total) == (100, 150)


def test_problems_name_the_file_they_are_in() -> None:
    tokenizer = build_tokenizer()
    render = partial(METHODS["supervised"].render, renderer=ModelRenderer(tokenizer), hyperparameters=None)
    rows = [Row(1, CompletionExample("p", "word " * 50))]
    with pytest.raises(DatasetError, match="validation_file"):
        check_rows(rows, render, tokenizer, max_tokens=50, param="validation_file")

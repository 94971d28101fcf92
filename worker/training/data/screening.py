"""Checks rows against the tokenizer before any training starts: what the reader, which has none, cannot see.

Duplicate rows are the reader's warning.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from worker.training.data.examples import CompletionExample, Example, NLFTExample
from worker.training.data.reader import Row
from worker.training.data.rendering import ModelRenderer, RenderingError
from worker.training.errors import DatasetError, RowProblem
from worker.training.types import RenderedExample

MOST_PROBLEMS = 100

Render = Callable[[Example], RenderedExample]


def check_rows(
    rows: Sequence[Row],
    render: Render,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_tokens: int,
    param: str = "training_file",
) -> list[RenderedExample]:
    """Return ``rows`` rendered, after finding nothing wrong with any of them; see ``screen_rows``."""
    return list(screen_rows(rows, render, tokenizer, max_tokens=max_tokens, param=param).values())


def screen_rows(
    rows: Sequence[Row],
    render: Render,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_tokens: int,
    param: str = "training_file",
    expendable: Collection[int] = (),
) -> dict[int, RenderedExample]:
    """Return ``rows`` rendered, by their position in ``rows``.

    Args:
        rows: Rows of one file.
        render: A method's ``render`` with its renderer and hyperparameters.
        tokenizer: The base model's.
        max_tokens: Longest rendered sequence; the smaller of ``max_seq_length`` and the model's context.
        param: Names the file in errors.
        expendable: Positions of rows that are left out instead of refused.

    Raises:
        DatasetError: Lists every row with special tokens in its text, an empty response or too many tokens, and every
            row that the chat template refuses.
    """
    special = _special_token_pattern(tokenizer)
    problems: list[RowProblem] = []
    rendered: dict[int, RenderedExample] = {}
    for position, (line, example) in enumerate(rows):
        found = list(_special_token_problems(line, example, special))
        try:
            one = render(example)
        except RenderingError as error:
            found.append(RowProblem(line, "messages", "template_refused", str(error)))
        else:
            found += _token_problems(line, one, max_tokens)
            if not found:
                rendered[position] = one
        problems += [] if position in expendable else found
    if problems:
        raise DatasetError(tuple(problems[:MOST_PROBLEMS]), len(problems), param)
    return rendered


def check_prompts(rows: Sequence[Row], renderer: ModelRenderer, *, max_tokens: int) -> list[NDArray[np.int32]]:
    """Return the prompts [T] of NLFT ``rows`` as generation starts from them.

    Args:
        rows: Rows of the training file.
        renderer: Of the base model.
        max_tokens: What a prompt must be shorter than; the model's context length.

    Raises:
        DatasetError: Lists every row with special tokens in its text, every prompt that leaves no room for a response,
            and every one that the chat template refuses.
    """
    special = _special_token_pattern(renderer.tokenizer)
    problems: list[RowProblem] = []
    prompts: list[NDArray[np.int32]] = []
    for line, example in rows:
        problems += _special_token_problems(line, example, special)
        if isinstance(example, NLFTExample):
            try:
                prompts.append(renderer.prompt(example.prompt, example.tools))
            except RenderingError as error:
                problems.append(RowProblem(line, "messages", "template_refused", str(error)))
            else:
                problems += _prompt_problems(line, len(prompts[-1]), max_tokens)
    if problems:
        raise DatasetError(tuple(problems[:MOST_PROBLEMS]), len(problems))
    return prompts


def _prompt_problems(line: int, tokens: int, max_tokens: int) -> Iterator[RowProblem]:
    if tokens >= max_tokens:
        reason = f"the prompt has {tokens} tokens of the model's {max_tokens}, so no response fits; shorten it"
        yield RowProblem(line, "messages", "too_many_tokens", reason)


def _special_token_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    tokens = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokens |= set(tokenizer.all_special_tokens)
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _special_token_problems(line: int, example: Example, special: re.Pattern[str]) -> Iterator[RowProblem]:
    for path, text in _texts(example):
        match = special.search(text)
        if match:
            reason = (
                f"the text holds the model's special token {match.group()}, which would be read as control; remove it"
            )
            yield RowProblem(line, path, "special_token", reason)


def _texts(example: Example) -> Iterator[tuple[str, str]]:
    if isinstance(example, CompletionExample):
        yield from (("prompt", example.prompt), ("completion", example.completion))
        return
    for index, message in enumerate(example.messages):
        yield f"messages[{index}].content", message.text
        for number, call in enumerate(message.tool_calls or ()):
            yield f"messages[{index}].tool_calls[{number}].function.arguments", call.function.arguments
    if isinstance(example, NLFTExample):
        fields = {"response": example.response, "reference": example.reference, "judgment": example.judgment}
        yield from ((path, text) for path, text in fields.items() if text)


def _token_problems(line: int, rendered: RenderedExample, max_tokens: int) -> Iterator[RowProblem]:
    for name, sequence in rendered.sequences.items():
        tokens = len(sequence.input_ids)
        if tokens > max_tokens:
            reason = (
                f"{tokens} tokens with its prompt ({name}), {len(sequence.scored)} of them trained; the limit is "
                f"{max_tokens}; shorten the row or raise max_seq_length up to the model's context length"
            )
            yield RowProblem(line, "", "too_many_tokens", reason)
    # A response that leaves only its end of turn has nothing to learn from.
    if any(len(sequence.scored) < 2 for sequence in rendered.sequences.values()):
        yield RowProblem(
            line, "", "empty_response", "the response has no tokens in this model's vocabulary; write some text"
        )

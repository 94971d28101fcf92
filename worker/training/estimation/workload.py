"""Tokens that a method's passes will read, counted from the text of the rows without a tokenizer or a model."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from os.path import commonprefix
from statistics import StatisticsError, linear_regression
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from worker.training.data.examples import CompletionExample
from worker.training.data.row_checks import is_trained
from worker.training.methods import METHODS
from worker.training.types import TokenSequence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.training.data.examples import Example, Message, NLFTExample
    from worker.training.data.reader import Row
    from worker.training.methods.auto import RunFacts
    from worker.training.methods.base import Hyperparameters, Method, RequiredField
    from worker.training.spec import TrainingSpec

BACKWARD_FACTOR = 3
"""A pass with gradient, in passes without: once forward, about twice as much backward."""
_MOST_TOGETHER = 8
"""Rows that compute what they begin with together, at most: ``engine.prepared`` bounds the keys that a pass sees."""


class TextScale(NamedTuple):
    """How text becomes tokens: so many characters each, and those that a chat template adds to a sequence."""

    characters_per_token: float
    template_tokens: float = 0.0


CHARACTERS = TextScale(1.0)


@dataclass(frozen=True, slots=True)
class Workload:
    """Means over rows, in tokens.

    Attributes:
        main: Read by the main pass in an epoch; what ``trained_tokens`` counts.
        step_work: Work of a row in an epoch, in tokens of a pass without gradient; what rows begin with alike is
            counted as often as it is computed.
        cached_work: Work of a row outside of steps, for all epochs together, in the same unit.
        longest: Longest sequence of any row.
    """

    main: float
    step_work: float
    cached_work: float
    longest: int


class CountingRenderer:
    """Renders a row into sequences that have the right lengths and no tokens.

    Args:
        scale: Of the base model's tokenizer.
    """

    def __init__(self, scale: TextScale) -> None:
        self._scale = scale

    def conversation(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> TokenSequence:
        """Return the lengths of a chat whose trained turns are scored."""
        scored = sum(self._count(_turn_text(message)) for message in messages if is_trained(message))
        return _lengths(self._count_all(messages, tools), scored)

    def exchange(
        self, messages: Sequence[Message], response: str, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> TokenSequence:
        """Return the lengths of a prompt and its response, the response scored."""
        scored = self._count(response) + 1
        return _lengths(self._count_all(messages, tools) + scored, scored)

    def response_text(self, example: NLFTExample) -> str:
        """Return the response as text."""
        return example.answer_text or ""

    def completion(self, prompt: str, completion: str) -> TokenSequence:
        """Return the lengths of a prompt and its completion, the completion scored."""
        scored = self._count(completion) + 1
        return _lengths(self._count(prompt) + scored, scored)

    def _count_all(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None) -> int:
        offered = self._count(json.dumps(tools, default=dict)) if tools else 0
        return (
            round(self._scale.template_tokens) + offered + sum(self._count(_turn_text(message)) for message in messages)
        )

    def _count(self, text: str) -> int:
        return math.ceil(len(text) / self._scale.characters_per_token)


def measure_workload(
    method: Method, hyperparameters: Hyperparameters, rows: Sequence[Example], scale: TextScale
) -> Workload:
    """Return the mean work of ``rows``, each of which has everything that ``method`` needs; zeros without rows."""
    renderer = CountingRenderer(scale)
    passes = method.passes(hyperparameters)
    common = _count_common(rows, scale)
    in_steps, cached = (spare(common, together) for together in (hyperparameters.batch_size, len(rows)))
    main = next(scoring_pass.sequence for scoring_pass in passes if scoring_pass.name == method.main_pass)
    read = longest = 0
    step_work = cached_work = 0.0
    for example in rows:
        sequences = method.render(example, renderer, hyperparameters).sequences
        lengths = {name: len(sequence.input_ids) for name, sequence in sequences.items()}
        read += lengths[main]
        longest = max(longest, *lengths.values())
        for scoring_pass in passes:
            tokens = lengths.get(scoring_pass.sequence)
            if tokens is None:
                continue
            if scoring_pass.cached:
                cached_work += (tokens - cached) * (hyperparameters.n_epochs if scoring_pass.renewed else 1)
            else:
                step_work += (tokens - in_steps) * (BACKWARD_FACTOR if scoring_pass.with_grad else 1)
    count = max(1, len(rows))
    return Workload(read / count, step_work / count, cached_work / count, longest)


def spare(common: float, together: int) -> float:
    """Return the tokens that a sequence costs less where ``together`` rows begin with the same ``common`` tokens."""
    return common * (1 - 1 / max(1, min(together, _MOST_TOGETHER)))


def fit_scale(characters: Sequence[int], tokens: Sequence[int]) -> TextScale | None:
    """Return the scale that fits sequences of these lengths best (least squares); None where they do not tell."""
    try:
        slope, intercept = linear_regression(characters, tokens)
    except StatisticsError:
        return None
    return TextScale(1 / slope, max(0.0, intercept)) if slope > 0 else None


def find_long_lines(
    spec: TrainingSpec, facts: RunFacts, rows: Sequence[Row], scale: TextScale
) -> tuple[list[int], int]:
    """Return the 1-based lines of rows that are likely longer than the job takes, and that limit in tokens."""
    method = METHODS[spec.method]
    hyperparameters = method.hyperparameters_type.resolve(spec.hyperparameters, facts)
    limit = hyperparameters.max_seq_length
    long = [
        row.line
        for row in rows
        if has_all(row.example, method.required_fields)
        and measure_workload(method, hyperparameters, [row.example], scale).longest > limit
    ]
    return long, limit


def has_all(example: Example, fields: Sequence[RequiredField]) -> bool:
    """Return whether a row can be counted: it has the response and the reference that a method needs."""
    given = {"response": getattr(example, "answer", True), "reference": getattr(example, "reference", True)}
    return all(given[field] for field in fields)


def _count_common(rows: Sequence[Example], scale: TextScale) -> float:
    """Return the tokens that all ``rows``, at least two, begin with alike."""
    common = commonprefix([_beginning(row) for row in rows])  # noqa: RUF071 - character by character, as texts go
    return len(common) / scale.characters_per_token if len(rows) > 1 else 0.0


def _beginning(example: Example) -> str:
    """Return the prompt in the order of a chat template; marks stand for what that puts around each turn."""
    if isinstance(example, CompletionExample):
        return example.prompt
    offered = json.dumps(example.tools, default=dict) if example.tools else ""
    return offered + "".join(f"<{message.role}>\n{_turn_text(message)}\n" for message in example.messages)


def _turn_text(message: Message) -> str:
    calls = "".join(call.function.name + call.function.arguments for call in message.tool_calls or ())
    return message.text + calls


def _lengths(tokens: int, scored: int) -> TokenSequence:
    # Only lengths are read from these, and a range has one without holding anything.
    return TokenSequence(cast("Any", range(tokens)), cast("Any", range(scored)))

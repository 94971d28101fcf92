"""Saliency records of rows: score once, weigh as often as settings change.

Knows no method by name: what a token's weight and class are is the method's word (``Method.explain``), and where it has
none the token weights of its loss are shown. Nothing here carries gradient or draws random numbers, so a run that is
explained on the way ends in the same bits as one that is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from worker.training.explaining.token_text import split_text
from worker.training.saliency_record import ExampleRef, SaliencyRecord, SaliencyToken
from worker.training.types import Explanation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from worker.training.engine.prepared import PreparedExample
    from worker.training.engine.scoring import Scorer
    from worker.training.methods.base import Hyperparameters, Method
    from worker.training.saliency_record import Direction, TokenClass
    from worker.training.types import LossOutput, ScoredBatch, ScoringPass, TokenScores


@dataclass(frozen=True, slots=True)
class Measured:
    """Rows as one model sees them: all that ``weigh`` needs. Keep it to weigh again without a forward pass.

    Attributes:
        lines: 1-based line of each of the B rows.
        passes: What was scored.
        batch: The scores, without gradient.
        ids: Scored tokens of the main sequence, row by row.
        texts: What each of them adds to the text, row by row.
    """

    lines: tuple[int, ...]
    passes: tuple[ScoringPass, ...]
    batch: ScoredBatch
    ids: tuple[tuple[int, ...], ...]
    texts: tuple[tuple[str, ...], ...]

    def serves(self, method: Method, hyperparameters: Hyperparameters) -> bool:
        """Return whether ``weigh`` can use this with these hyperparameters, as far as the passes go.

        Hyperparameters that change the rendered text (prompts) are the caller's to compare.
        """
        known = {scoring_pass.name: scoring_pass for scoring_pass in self.passes}
        return all(
            wanted.name in known and _covers(known[wanted.name], wanted)
            for wanted in plan_passes(method, hyperparameters)
        )


def plan_passes(
    method: Method, hyperparameters: Hyperparameters, *, with_hidden: bool = False
) -> tuple[ScoringPass, ...]:
    """Return the method's passes without gradient; ``with_hidden`` adds hidden states to the main one.

    With them, one measurement serves every way of finding neighbours. The result is hashable: part of a cache key.
    """
    return tuple(
        replace(p, with_grad=False, with_hidden=p.with_hidden or (with_hidden and p.name == method.main_pass))
        for p in method.passes(hyperparameters)
    )


def explain(
    scorer: Scorer,
    method: Method,
    hyperparameters: Hyperparameters,
    examples: Sequence[PreparedExample],
    *,
    tokenizer: PreTrainedTokenizerBase,
    step: int,
) -> list[SaliencyRecord]:
    """Return a record of every row as the scorer's model sees it now; call it inside ``scorer.attention()``.

    Args:
        scorer: Runs the forward passes.
        method: Of the run.
        hyperparameters: Of that method.
        examples: Rendered rows, at least one; cached passes that they lack are scored and kept in them.
        tokenizer: Of the base model.
        step: Optimizer steps made so far, for the records.

    Raises:
        DeviceOutOfMemoryError: A single example does not fit the device.
    """
    measured = measure(scorer, method, hyperparameters, examples, tokenizer=tokenizer)
    return weigh(measured, method, hyperparameters, step=step)


def measure(
    scorer: Scorer,
    method: Method,
    hyperparameters: Hyperparameters,
    examples: Sequence[PreparedExample],
    *,
    tokenizer: PreTrainedTokenizerBase,
    with_hidden: bool = False,
) -> Measured:
    """Return the scores of ``examples`` (at least one) under every pass of the method.

    Args:
        scorer: Runs the forward passes.
        method: Whose passes to run.
        hyperparameters: Of that method.
        examples: Rendered rows; cached passes that they lack are scored and kept in them.
        tokenizer: Of the base model.
        with_hidden: Keep the hidden states of the main pass even where these hyperparameters do not need them.

    Raises:
        DeviceOutOfMemoryError: A single example does not fit the device.
    """
    passes = plan_passes(method, hyperparameters, with_hidden=with_hidden)
    unscored = [example for example in examples if not _is_cached(example, passes)]
    if unscored:
        scorer.fill_cache(unscored, passes, lambda _done, _total: None)
    batch = scorer.measure(examples, passes)
    main = next(p.sequence for p in passes if p.name == method.main_pass)
    sequences = [example.rendered.sequences[main] for example in examples]
    ids = tuple(tuple(sequence.input_ids[sequence.scored].tolist()) for sequence in sequences)
    return Measured(
        lines=tuple(example.line for example in examples),
        passes=passes,
        batch=batch,
        ids=ids,
        texts=tuple(tuple(split_text(tokenizer, row)) for row in ids),
    )


def weigh(measured: Measured, method: Method, hyperparameters: Hyperparameters, *, step: int) -> list[SaliencyRecord]:
    """Return a record of every measured row: arithmetic alone, no forward pass.

    Args:
        measured: Scores that serve these hyperparameters, see ``Measured.serves``.
        method: The method that weighs.
        hyperparameters: Of that method.
        step: Optimizer steps made when the rows were measured.
    """
    main = measured.batch.passes[method.main_pass]
    with torch.no_grad():
        output = method.loss(measured.batch, hyperparameters)
        found = method.explain(measured.batch, hyperparameters) or _from_loss(output, main)
    weights: list[float] = found.weights.tolist()
    columns = _columns(main, found, weights)
    right = measured.batch.values.get("right")
    verdicts = [None] * len(measured.lines) if right is None else [value > 0 for value in right.tolist()]
    records = []
    start = 0
    rows = zip(measured.lines, verdicts, output.losses.tolist(), measured.ids, measured.texts, strict=True)
    for line, correct, loss, ids, texts in rows:
        end = start + len(ids)
        tokens = [
            SaliencyToken(text, token_id, *values)
            for text, token_id, *values in zip(texts, ids, *(column[start:end] for column in columns), strict=True)
        ]
        records.append(SaliencyRecord(ExampleRef(line, correct), step, loss, math.fsum(weights[start:end]), tokens))
        start = end
    return records


def _covers(known: ScoringPass, wanted: ScoringPass) -> bool:
    return known == wanted or (known.with_hidden and known == replace(wanted, with_hidden=True))


def _is_cached(example: PreparedExample, passes: Sequence[ScoringPass]) -> bool:
    return all(p.name in example.cached for p in passes if p.cached and p.sequence in example.rendered.sequences)


def _from_loss(output: LossOutput, main: TokenScores) -> Explanation:
    """Return what the loss alone tells: every token is raised with its weight, 1 where the method has none."""
    nothing = main.example < 0
    weights = main.logprobs.new_ones(main.logprobs.shape) if output.token_weights is None else output.token_weights
    return Explanation(weights, nothing, nothing, lowered=nothing, contexts={})


def _columns(main: TokenScores, found: Explanation, weights: list[float]) -> tuple[Sequence[object], ...]:
    """Return the values of all tokens in the order of ``SaliencyToken``'s fields after text and id."""

    def probabilities(name: str) -> list[float | None]:
        logprobs = found.contexts.get(name)
        return [None] * len(weights) if logprobs is None else [_present(p) for p in _exp(logprobs)]

    return (
        _exp(main.logprobs),
        probabilities("frozen_base"),
        probabilities("reference"),
        probabilities("judgment"),
        weights,
        _classes(found.salient.tolist(), found.neighbour.tolist()),
        _directions(weights, found.lowered.tolist()),
    )


def _exp(logprobs: Tensor) -> list[float]:
    # Double: a ratio of two of these is compared with a threshold, to the last of float32's digits.
    values: list[float] = logprobs.double().exp().tolist()
    return values


def _present(value: float) -> float | None:
    return None if value != value else value  # noqa: PLR0124 - only NaN differs from itself


def _classes(salient: Sequence[bool], neighbour: Sequence[bool]) -> list[TokenClass]:
    return [
        "salient" if is_salient else "neighbour" if is_neighbour else "other"
        for is_salient, is_neighbour in zip(salient, neighbour, strict=True)
    ]


def _directions(weights: Sequence[float], lowered: Sequence[bool]) -> list[Direction]:
    return [
        "none" if weight == 0 else "lower" if is_lowered else "raise"
        for weight, is_lowered in zip(weights, lowered, strict=True)
    ]

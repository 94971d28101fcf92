"""Chooses which graded rows are trained, so that data mixtures can be made. Free of torch."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from worker.training.building.candidates import REFERENCE_INDEX, Candidate
from worker.training.data.reasoning import mostly_lack_steps, reasons

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from worker.training.spec import MixtureSettings


def most_wrong_per_question(settings: MixtureSettings, candidates: Sequence[Candidate]) -> int | None:
    """Return the limit in ``settings``, or what "auto" stands for among ``candidates``; None: all are kept."""
    limit = settings.max_wrong_per_question
    if limit != "auto":
        return limit
    are_sampled = any(one.is_made for one in candidates)
    return 0 if are_sampled and mostly_lack_steps([one.example for one in candidates]) else None


def mix(
    candidates: Sequence[Candidate], settings: MixtureSettings, seed: int, *, asked: Sequence[Candidate] = ()
) -> list[Candidate]:
    """Return the candidates to train, by line; each limit applies to what the one before it has left.

    First come the limits per question, which keep a question's first responses, then references are added as right
    responses, then come the share of wrong ones and the size. Which rows of an excess are dropped is drawn with
    ``seed``, the same ones whatever else is in the file.

    Args:
        candidates: Rows with a response, by line.
        settings: What is kept.
        seed: Of the draws.
        asked: The questions, without a response, that responses were sampled for.
    """
    kept = _limit_per_question(candidates, settings)
    if settings.references_as_right == "auto":
        solved = {one.question for one in kept if not is_wrong(one)}
        unsolved = [one for one in asked if one.question not in solved and reasons(one.example.reference)]
        kept = _with_references(kept, unsolved, are_expendable=True)
    elif settings.references_as_right:
        every = sorted([*candidates, *asked], key=lambda one: one.place)
        kept = _with_references(kept, every, are_expendable=False)
    if settings.wrong_share is not None:
        kept = _keep_most(kept, *_counts_at_share(kept, settings.wrong_share), seed)
    if settings.max_rows is not None and len(kept) > settings.max_rows:
        wrong = round(settings.max_rows * len([one for one in kept if is_wrong(one)]) / len(kept))
        kept = _keep_most(kept, settings.max_rows - wrong, wrong, seed)
    return kept


def is_wrong(candidate: Candidate) -> bool:
    """Return whether a response is known to be wrong; one that nobody graded counts as right."""
    return candidate.example.correct is False or candidate.example.judgment is not None


def _limit_per_question(candidates: Sequence[Candidate], settings: MixtureSettings) -> list[Candidate]:
    limits = {False: settings.max_right_per_question, True: most_wrong_per_question(settings, candidates)}
    seen: Counter[tuple[str, bool]] = Counter()
    kept = []
    for candidate in candidates:
        kind = is_wrong(candidate)
        limit = limits[kind]
        seen[candidate.question, kind] += 1
        if limit is None or seen[candidate.question, kind] <= limit:
            kept.append(candidate)
    return kept


def _with_references(
    kept: Sequence[Candidate], questions: Sequence[Candidate], *, are_expendable: bool
) -> list[Candidate]:
    """Return ``kept`` with the reference of each of ``questions``, once, unless a right response equals it.

    Expendable ones are left out, and not refused, where they turn out unfit.
    """
    said = {(one.question, one.example.answer_text) for one in kept if not is_wrong(one)}
    first = {one.question: one for one in reversed(questions)}
    references = [
        _reference_of(one, is_made=are_expendable)
        for question, one in first.items()
        if one.example.reference and (question, one.example.reference) not in said
    ]
    return sorted([*references, *kept], key=lambda one: one.place)


def _reference_of(candidate: Candidate, *, is_made: bool) -> Candidate:
    example = candidate.example
    taken = msgspec.structs.replace(
        example, messages=example.prompt, response=example.reference, judgment=None, correct=True
    )
    return Candidate(candidate.line, REFERENCE_INDEX, taken, is_made=is_made)


def _counts_at_share(candidates: Sequence[Candidate], share: float) -> tuple[int, int]:
    """Return how many right and wrong rows stay so that the wrong ones are ``share`` of all."""
    wrong = sum(map(is_wrong, candidates))
    right = len(candidates) - wrong
    if wrong > share * (right + wrong):
        return right, int(share * right / (1 - share) + 1e-9)
    return (int(wrong * (1 - share) / share + 1e-9) if share else right), wrong


def _keep_most(candidates: Sequence[Candidate], right: int, wrong: int, seed: int) -> list[Candidate]:
    chosen = [*_draw(candidates, seed, right, wrong=False), *_draw(candidates, seed, wrong, wrong=True)]
    return _in_order(candidates, {(one.line, one.index) for one in chosen})


def _draw(candidates: Sequence[Candidate], seed: int, count: int, *, wrong: bool) -> list[Candidate]:
    def key(candidate: Candidate) -> bytes:
        return hashlib.sha256(f"{seed}/{candidate.question}/{candidate.example.answer_text}".encode()).digest()

    return sorted((one for one in candidates if is_wrong(one) == wrong), key=key)[:count]


def _in_order(candidates: Sequence[Candidate], chosen: Collection[tuple[int, int]]) -> list[Candidate]:
    return [one for one in candidates if (one.line, one.index) in chosen]

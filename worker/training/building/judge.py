"""Lets a judge say what is wrong with wrong responses."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from worker.training.building.parts import JudgmentRecord
from worker.training.building.rollout import answer_greedily
from worker.training.building.stages import split
from worker.training.building.template_judge import judge_by_template
from worker.training.completions import new_request
from worker.training.data.examples import Message
from worker.training.errors import StageError
from worker.training.graders import sample_of
from worker.training.spec import EndpointJudge, SelfJudge, result_reader
from worker.training.syntax.templates import TemplateError, render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.training.building.candidates import Candidate
    from worker.training.building.stages import OnDone, Part
    from worker.training.completions import Completions
    from worker.training.data.rendering import ModelRenderer
    from worker.training.model.base_model import LoadedModel
    from worker.training.spec import Grader, Judge

PART_RESPONSES = 64
_SELF_BATCH = 32
_INSTRUCTION = """Question:
{{ item.question }}

Standard answer:
{{ item.reference }}

A student's answer:
{{ sample.output_text }}

The student's answer is wrong. Name its first mistake in one or two sentences: which step or claim is wrong, and why. \
Do not solve the question again."""
_CHAT_INSTRUCTION = _INSTRUCTION.replace("Question:\n{{ item.question }}", "Conversation:\n{{ item.messages }}")

Judgment = tuple[str, str | None]
"""What a judge wrote, and why there is nothing."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What judges work with: the base model with its renderer, the grader of the responses, and endpoints."""

    loaded: LoadedModel
    renderer: ModelRenderer
    grader: Grader
    completions: Completions


def plan_judging(candidates: Sequence[Candidate], judge: Judge, bench: Bench) -> list[Part[JudgmentRecord]]:
    """Return the parts of the judging of wrong ``candidates``, in their order."""
    return split(candidates, PART_RESPONSES, partial(_judge, judge=judge, bench=bench))


def _judge(candidates: Sequence[Candidate], on_done: OnDone, *, judge: Judge, bench: Bench) -> list[JudgmentRecord]:
    """Return one record per candidate.

    Raises:
        StageError: The judge answered nothing at all: asking it about the next part would only cost.
    """
    if isinstance(judge, SelfJudge):
        judgments = _ask_itself(candidates, judge, bench, on_done)
    elif isinstance(judge, EndpointJudge):
        judgments = _ask_endpoint(candidates, judge, bench, on_done)
    else:
        judgments = _fill_template(candidates, bench.grader)
    if judgments and all(error for _, error in judgments):
        reason = Counter(error for _, error in judgments).most_common(1)[0][0]
        raise StageError(
            "judging_failed", f"the judge answered none of {len(judgments)} requests; most often: {reason}", "judge"
        )
    return [
        JudgmentRecord(candidate.line, candidate.index, candidate.digest, text, error)
        for candidate, (text, error) in zip(candidates, judgments, strict=True)
    ]


def _fill_template(candidates: Sequence[Candidate], grader: Grader) -> list[Judgment]:
    reader = result_reader(grader)
    return [
        (judge_by_template(candidate.example.answer_text or "", candidate.example.reference or "", reader), None)
        for candidate in candidates
    ]


def _ask_itself(candidates: Sequence[Candidate], judge: SelfJudge, bench: Bench, on_done: OnDone) -> list[Judgment]:
    prompts = [bench.renderer.prompt([Message("user", _request(candidate, None))]) for candidate in candidates]
    answers = answer_greedily(
        prompts,
        bench.loaded,
        bench.renderer,
        max_new_tokens=judge.max_new_tokens,
        batch_size=_SELF_BATCH,
        on_progress=lambda done, _total: on_done(done),
    )
    return [(text if is_finished else _whole_sentences(text), None) for text, is_finished in answers]


def _ask_endpoint(
    candidates: Sequence[Candidate], judge: EndpointJudge, bench: Bench, on_done: OnDone
) -> list[Judgment]:
    sampling = judge.sampling_params.model_dump(exclude_none=True)
    requests = [
        new_request(judge.model, [{"role": "user", "content": _request(candidate, judge.instruction)}], sampling)
        for candidate in candidates
    ]
    answers = bench.completions.complete(requests, lambda done, _total: on_done(done))
    return [
        ((answer.text or "").strip().replace("\x00", ""), f"{answer.code}: {answer.error}" if answer.code else None)
        for answer in answers
    ]


def _request(candidate: Candidate, instruction: str | None) -> str:
    """Return what a judge is asked.

    Raises:
        StageError: The instruction names something that the row does not have.
    """
    example = candidate.example
    row = msgspec.structs.replace(example, messages=example.prompt)
    is_chat = any(message.role == "assistant" for message in row.messages)
    template = instruction or (_CHAT_INSTRUCTION if is_chat else _INSTRUCTION)
    try:
        return render(template, sample_of(row, example.answer_text or "").values())
    except TemplateError as error:
        raise StageError("judging_failed", f"the judge's instruction: {error}", "judge.instruction") from error


def _whole_sentences(text: str) -> str:
    """Return a text that was cut off up to its last sentence, all of it where it has none."""
    end = max(text.rfind(mark) for mark in (". ", ".\n", "! ", "? "))
    return text[: end + 1] if end > 0 else text

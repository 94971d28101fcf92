"""Prompt sets of NLFT: how guidance is shown beside a question. Data, chosen by name or written into the job.

A template knows the names below, written ``{{ question }}``, and nothing else: no expressions, filters or statements,
so that it can neither run code nor take long.

| name | text | reference prompt | judgment prompt |
|---|---|---|---|
| ``question`` | the last user turn | needed | needed |
| ``reference`` | the standard answer | needed | allowed |
| ``judgment`` | the criticism of the response | unknown | needed |
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, Discriminator, Field, Tag

from worker.training.data.examples import Message
from worker.training.spec_model import SpecModel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.training.data.examples import NLFTExample

PromptName = Literal["default", "paper"]

_LONGEST = 20_000
_SLOT = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_MARKS = re.compile(r"\{\{|\}\}|\{%|%\}|\{#|#\}")


class PromptTurn(SpecModel):
    """A turn of a prompt that is written as several."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1, max_length=_LONGEST)


Prompt = str | list[PromptTurn]


def _check_reference(prompt: Prompt) -> Prompt:
    return _check(prompt, needed=("question", "reference"), known=("question", "reference"))


def _check_judgment(prompt: Prompt) -> Prompt:
    return _check(prompt, needed=("question", "judgment"), known=("question", "reference", "judgment"))


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str) else "structure"


# Told apart before they are validated, so that a fault is reported once, in the words of what was meant.
_Template = Annotated[
    Annotated[str, Field(max_length=_LONGEST), Tag("text")]
    | Annotated[list[PromptTurn], Field(min_length=1, max_length=20), Tag("structure")],
    Discriminator(_kind),
]


class PromptSet(SpecModel):
    """Templates of the guided contexts. A text replaces the last user turn; a list of turns does, too.

    A system turn at the head of such a list is put before the row's own instructions.
    """

    reference: Annotated[_Template, AfterValidator(_check_reference)] = Field(
        "{{ question }}\n\nConsult this standard answer: {{ reference }}\n\nNow answer the question.",
        description="With `{{ question }}` and `{{ reference }}`.",
    )
    judgment: Annotated[_Template, AfterValidator(_check_judgment)] = Field(
        "{{ question }}\n\nAnswer with this weakness: {{ judgment }}",
        description="With `{{ question }}` and `{{ judgment }}`, and `{{ reference }}` if wanted.",
    )


Prompts = Annotated[Annotated[PromptName, Tag("text")] | Annotated[PromptSet, Tag("structure")], Discriminator(_kind)]


def find_prompts(chosen: PromptName | PromptSet) -> PromptSet:
    """Return the templates that a job's ``prompts`` stand for."""
    return chosen if isinstance(chosen, PromptSet) else PROMPT_SETS[chosen]


def show_reference(row: NLFTExample, chosen: PromptName | PromptSet, reference: str) -> list[Message]:
    """Return the prompt of ``row`` with its reference shown."""
    return guide(row.prompt, find_prompts(chosen).reference, {"reference": reference})


def show_judgment(row: NLFTExample, chosen: PromptName | PromptSet, judgment: str) -> list[Message]:
    """Return the prompt of ``row`` with the judgment of its response shown."""
    shown = {"reference": row.reference or "", "judgment": judgment}
    return guide(row.prompt, find_prompts(chosen).judgment, shown)


def guide(messages: Sequence[Message], prompt: Prompt, guidance: Mapping[str, str]) -> list[Message]:
    """Return ``messages`` with ``prompt`` in place of the last user turn; without one it comes at the end.

    Args:
        messages: What the response answers.
        prompt: A template that was checked by ``PromptSet``.
        guidance: Texts by the names that the template uses; ``question`` is added here.
    """
    before, turn, after = _around_question(messages)
    texts = {**guidance, "question": turn.text}
    if isinstance(prompt, str):
        return [*before, msgspec.structs.replace(turn, content=_fill(prompt, texts)), *after]
    shown = [Message(part.role, _fill(part.content, texts)) for part in prompt]
    if shown[0].role == "system" and before and before[0].role in {"system", "developer"}:
        merged = msgspec.structs.replace(before[0], content=f"{shown[0].text}\n\n{before[0].text}")
        return [merged, *before[1:], *shown[1:], *after]
    head = shown[:1] if shown[0].role == "system" else []
    return [*head, *before, *shown[len(head) :], *after]


def _around_question(messages: Sequence[Message]) -> tuple[list[Message], Message, list[Message]]:
    last = max((index for index, message in enumerate(messages) if message.role == "user"), default=None)
    if last is None:
        return list(messages), Message("user", ""), []
    return list(messages[:last]), messages[last], list(messages[last + 1 :])


def _fill(template: str, texts: Mapping[str, str]) -> str:
    # Filled in one pass: what stands in a row is text, also where it looks like a template.
    filled = _SLOT.sub(lambda slot: texts[slot[1]], template)
    return filled if texts["question"] else filled.strip()


def _check(prompt: Prompt, *, needed: Sequence[str], known: Sequence[str]) -> Prompt:
    turns = [PromptTurn(role="user", content=prompt)] if isinstance(prompt, str) and prompt else prompt
    if not turns or isinstance(turns, str):
        raise ValueError("the prompt is empty")
    if any(turn.role == "system" for turn in turns[1:]) or turns[-1].role != "user":
        raise ValueError("a system turn can only be the first, and the last turn must be the user's")
    used = {name for turn in turns for name in _names(turn.content, known)}
    missing = [name for name in needed if name not in used]
    if missing:
        raise ValueError(f"the prompt must contain {{{{ {missing[0]} }}}}")
    return prompt


def _names(template: str, known: Sequence[str]) -> list[str]:
    names = _SLOT.findall(template)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"'{unknown[0][:60]}' is not known here; the names are {', '.join(known)}")
    if _MARKS.search(_SLOT.sub("", template)):
        raise ValueError("braces do not match; a template knows names such as {{ question }} and nothing else")
    return names


PROMPT_SETS: Mapping[PromptName, PromptSet] = MappingProxyType(
    {
        # The guidance stands behind the question, so that all contexts of a row begin with the same tokens.
        "default": PromptSet(),
        # The published order: what to do, the question, the guidance.
        "paper": PromptSet(
            reference="Consult the standard answer and answer the question.\n"
            "Question: {{ question }}\nStandard answer: {{ reference }}",
            judgment="Answer the question with the weaknesses that the judgment names.\n"
            "Question: {{ question }}\nJudgment: {{ judgment }}",
        ),
    }
)

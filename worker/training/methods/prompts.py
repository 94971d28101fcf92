"""Prompt sets of NLFT: how a guidance is put behind a question. Data, chosen by name in the hyperparameters."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from worker.training.data.examples import Message

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Texts of the guided contexts: ``{question}`` is the last user turn, ``{guidance}`` the reference or judgment."""

    reference: str
    judgment: str


PROMPT_SETS: Mapping[str, PromptSet] = MappingProxyType(
    {
        "default": PromptSet(
            reference="{question}\n\nConsult this standard answer: {guidance}\n\nNow answer the question.",
            judgment="{question}\n\nAnswer with this weakness: {guidance}",
        ),
        "instruction_first": PromptSet(
            reference="Consult the standard answer and answer the question.\n"
            "Standard answer: {guidance}\n\nQuestion: {question}",
            judgment="Answer the question with the weaknesses that the judgment names.\n"
            "Judgment: {guidance}\n\nQuestion: {question}",
        ),
    }
)


def guide(messages: Sequence[Message], template: str, guidance: str) -> list[Message]:
    """Return ``messages`` with ``template`` filled into the last user turn; without one a user turn is added."""
    guided = list(messages)
    last = max((index for index, message in enumerate(guided) if message.role == "user"), default=None)
    if last is None:
        return [*guided, Message("user", _fill(template, "", guidance).strip())]
    guided[last] = msgspec.structs.replace(guided[last], content=_fill(template, guided[last].text, guidance))
    return guided


def _fill(template: str, question: str, guidance: str) -> str:
    # Not str.format: a question may hold braces, and a guidance the word {question}.
    before, after = template.split("{question}")
    return before.replace("{guidance}", guidance) + question + after.replace("{guidance}", guidance)

"""Turns rows into token ids with the base model's own chat template.

A response is tokenized on its own and appended, so its ids are the same behind every prompt. Models without a template
get a plain one: ``User:`` / ``Assistant:`` lines, the role on a line of its own, a blank line between turns.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from worker.training.data.examples import Message, NLFTExample
from worker.training.data.row_checks import is_trained
from worker.training.errors import BaseModelError
from worker.training.types import TokenSequence

Tools = Sequence[Mapping[str, Any]] | None

_PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}:\n{{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
_SENTINEL = "sentinel"
_CACHED_TEXTS = 8192


class RenderingError(ValueError):
    """The model's chat template cannot express a row. The message names the reason and the remedy, no content."""


class ModelRenderer:
    """Renders for one tokenizer; ids of a piece of text are produced once and remembered.

    Raises:
        BaseModelError: The tokenizer has no token that could end a response.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.eos_token_id is None:
            raise BaseModelError("the tokenizer has no end-of-sequence token, so no response could ever end", "model")
        self._tokenizer = tokenizer
        self._template: str | None = None if tokenizer.chat_template else _PLAIN_TEMPLATE
        self._ids: dict[str, NDArray[np.int32]] = {}
        self._takes_system = self._accepts_system()
        self._end_text, self._end_id = self._find_end_of_turn()
        self._begin = self._find_begin()

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that this renders for."""
        return self._tokenizer

    @property
    def end_of_turn_id(self) -> int:
        """The token that ends a response."""
        return self._end_id

    def prompt(self, messages: Sequence[Message], tools: Tools = None) -> NDArray[np.int32]:
        """Return the ids [T] of ``messages`` and the header of the answer: what generation starts from.

        Raises:
            RenderingError: The template refuses the messages, or cannot express tools.
        """
        text = self._render(messages, tools, for_answer=True)
        _require_tools(text, messages, tools)
        return self._prefixed(self._encode(text))

    def exchange(self, messages: Sequence[Message], response: str, tools: Tools = None) -> TokenSequence:
        """Return the prompt of ``messages``, then ``response`` and the end of turn, which are scored.

        Raises:
            RenderingError: The template refuses the messages, or cannot express tools.
        """
        return _joined([(self.prompt(messages, tools), False), (self._ended(response), True)])

    def response_text(self, example: NLFTExample) -> str:
        """Return the response of a row as the model would write it; a final turn as the template writes it.

        Raises:
            RenderingError: The template refuses the messages, cannot express tools, or rewrites earlier turns.
            ValueError: The row has no response.
        """
        answer = example.answer
        if answer is None:
            raise ValueError("a row without a response has no text to score")
        if isinstance(answer, str):
            return answer
        whole = self._render(example.messages, example.tools, for_answer=False)
        _require_tools(whole, example.messages, example.tools)
        start, end = self._turn_span(whole, example.prompt, example.tools)
        return whole[start:end]

    def completion(self, prompt: str, completion: str) -> TokenSequence:
        """Return raw ``prompt``, then ``completion`` and the end-of-sequence token, which are scored."""
        end = np.array([self._tokenizer.eos_token_id], np.int32)
        prompt_ids = np.concatenate([self._begin, self._encode(prompt)])
        if not len(prompt_ids):
            prompt_ids = end  # the first scored token needs something before it
        return _joined([(prompt_ids, False), (np.concatenate([self._encode(completion), end]), True)])

    def conversation(self, messages: Sequence[Message], tools: Tools = None) -> TokenSequence:
        """Return a chat up to its last trained turn, every assistant turn of weight other than 0 scored.

        A turn begins where the rendering of the messages before it ends; its end of turn is scored too.

        Raises:
            RenderingError: The template refuses the messages, cannot express tools, or rewrites earlier turns.
        """
        whole = self._render(messages, tools, for_answer=False)
        _require_tools(whole, messages, tools)
        pieces: list[tuple[NDArray[np.int32], bool]] = []
        cursor = 0
        for index, message in enumerate(messages):
            if is_trained(message):
                start, end = self._turn_span(whole, messages[:index], tools)
                header = self._encode(whole[cursor:start])
                pieces += [(header if pieces else self._prefixed(header), False), (self._ended(whole[start:end]), True)]
                cursor = end + len(self._end_text)
        return _joined(pieces)

    def _turn_span(self, whole: str, before: Sequence[Message], tools: Tools) -> tuple[int, int]:
        """Return the characters of ``whole`` that answer ``before``: [start, end), the end of turn not included."""
        prompt = self._render(before, tools, for_answer=True)
        if not whole.startswith(prompt):
            raise RenderingError(
                "the model's template rewrites earlier turns; give each assistant turn a row of its own"
            )
        end = whole.find(self._end_text, len(prompt))
        if end < 0:
            raise RenderingError(
                "the model's template does not end assistant turns; use NLFT or completion rows instead"
            )
        return len(prompt), end

    def _ended(self, text: str) -> NDArray[np.int32]:
        return np.concatenate([self._encode(text), np.array([self._end_id], np.int32)])

    def _encode(self, text: str) -> NDArray[np.int32]:
        """Return the ids of ``text``, special tokens recognised but none added."""
        ids = self._ids.get(text)
        if ids is None:
            if len(self._ids) >= _CACHED_TEXTS:
                self._ids.clear()
            ids = np.array(self._tokenizer(text, add_special_tokens=False).input_ids, np.int32)
            self._ids[text] = ids
        return ids

    def _prefixed(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return ``ids`` behind the begin token, where the tokenizer adds one and no template of its own does."""
        return ids if self._template is None else np.concatenate([self._begin, ids])

    def _render(self, messages: Sequence[Message], tools: Tools, *, for_answer: bool) -> str:
        turns = [_template_turn(message) for message in messages]
        if turns and turns[0]["role"] == "system" and not self._takes_system:
            turns = _merge_system(turns)
        return self._apply(turns, tools, for_answer=for_answer)

    def _apply(self, turns: list[dict[str, Any]], tools: Tools, *, for_answer: bool) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    turns,
                    tools=[dict(tool) for tool in tools] if tools else None,
                    chat_template=self._template,
                    add_generation_prompt=for_answer,
                    tokenize=False,
                )
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise RenderingError(
                "the model's chat template refuses these messages; check the order and the roles of the turns"
            ) from error

    def _accepts_system(self) -> bool:
        turns = [{"role": "system", "content": _SENTINEL}, {"role": "user", "content": "question"}]
        try:
            return _SENTINEL in self._apply(turns, None, for_answer=True)
        except RenderingError:
            return False

    def _find_end_of_turn(self) -> tuple[str, int]:
        """Return text and id of the special token behind an assistant turn; the end of sequence where there is none."""
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _SENTINEL}]
        tail = self._encode(self._apply(turns, None, for_answer=False).rpartition(_SENTINEL)[2])
        special = set(self._tokenizer.all_special_ids) | {
            index for index, token in self._tokenizer.added_tokens_decoder.items() if token.special
        }
        found = next((int(index) for index in tail if int(index) in special), int(self._tokenizer.eos_token_id))
        return str(self._tokenizer.convert_ids_to_tokens(found)), found

    def _find_begin(self) -> NDArray[np.int32]:
        """Return the begin token [1] that the tokenizer puts before plain text, or nothing [0]."""
        begin = self._tokenizer.bos_token_id
        first = self._tokenizer("a").input_ids[:1]
        return np.array(first if begin is not None and first == [begin] else [], np.int32)


def _template_turn(message: Message) -> dict[str, Any]:
    """Return ``message`` as templates expect it. ``developer`` is a newer name of ``system``."""
    turn: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": message.text or message.refusal or "",
    }
    if message.tool_calls:
        turn["tool_calls"] = [
            {"type": "function", "id": call.id, "function": {"name": call.function.name, "arguments": arguments}}
            for call in message.tool_calls
            for arguments in [_parsed(call.function.arguments)]
        ]
    optional = {"name": message.name, "tool_call_id": message.tool_call_id}
    return turn | {key: value for key, value in optional.items() if value is not None}


def _parsed(arguments: str) -> object:
    """Return call arguments as templates expect them: the object that their JSON text means."""
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _merge_system(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the turns with the system text put in front of the first user turn."""
    system, rest = turns[0], turns[1:]
    if rest and rest[0]["role"] == "user":
        return [{**rest[0], "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]
    return [{**system, "role": "user"}, *rest]


def _require_tools(whole: str, messages: Sequence[Message], tools: Tools) -> None:
    """Refuse a template that silently drops tools or tool calls."""
    called = {call.function.name for message in messages for call in message.tool_calls or ()}
    offered = {str(tool.get("function", tool).get("name", "")) for tool in tools or ()}
    if not all(name in whole for name in called | offered):
        raise RenderingError(
            "the model's chat template does not render tools; remove them or choose another base model"
        )


def _joined(pieces: Sequence[tuple[NDArray[np.int32], bool]]) -> TokenSequence:
    ids = np.concatenate([piece for piece, _ in pieces]).astype(np.int32)
    scored = np.concatenate([np.full(len(piece), is_scored) for piece, is_scored in pieces])
    return TokenSequence(input_ids=ids, scored=np.flatnonzero(scored).astype(np.int32))

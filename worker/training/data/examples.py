"""The row formats that a training file may hold. Unknown fields are refused; the format is told by the keys.

| format | keys |
|---|---|
| NLFT | ``messages``, ``tools``, ``response``, ``reference``, ``judgment``, ``correct`` |
| chat | ``messages`` with assistant turns, ``tools``, ``parallel_tool_calls`` |
| completion | ``prompt``, ``completion`` |

Rows hold no cycles, so the garbage collector need not know them (``gc=False``).
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import msgspec

Role = Literal["system", "developer", "user", "assistant", "tool"]


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False, tag="text", tag_field="type"):
    """A piece of text in a message's content list."""

    text: str


class FunctionCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The function an assistant calls; ``arguments`` is JSON text."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A tool call of an assistant turn."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One chat turn. ``weight`` 0 keeps an assistant turn out of the loss."""

    role: Role
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    weight: Literal[0, 1] | None = None
    refusal: str | None = None

    @property
    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class NLFTExample(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A prompt, a response to it, the standard answer and, for a wrong response, a judgment (`docs/nlft.md`).

    The response is ``response``, or an assistant turn at the end of ``messages``, its tool calls included.
    """

    messages: list[Message]
    response: str | None = None
    reference: str | None = None
    judgment: str | None = None
    correct: bool | None = None
    tools: list[dict[str, Any]] | None = None

    @property
    def prompt(self) -> list[Message]:
        """The messages that the response answers."""
        return self.messages[:-1] if self._ends_with_answer else self.messages

    @property
    def answer(self) -> str | Message | None:
        """The response; a whole turn where ``messages`` end with it."""
        return self.messages[-1] if self.response is None and self._ends_with_answer else self.response

    @property
    def answer_text(self) -> str | None:
        """The response as a person reads it: its text, then its tool calls as JSON, one a line."""
        answer = self.answer
        if not isinstance(answer, Message):
            return answer
        calls = (
            json.dumps({"name": call.function.name, "arguments": call.function.arguments}, ensure_ascii=False)
            for call in answer.tool_calls or ()
        )
        return "\n".join(filter(None, (answer.text or answer.refusal, *calls)))

    @property
    def is_right(self) -> bool:
        """Whether the response counts as right: as ``correct`` says, else where nothing criticises it."""
        return self.judgment is None if self.correct is None else self.correct

    @property
    def _ends_with_answer(self) -> bool:
        return bool(self.messages) and self.messages[-1].role == "assistant"


class ChatExample(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """An OpenAI chat row: every assistant turn is trained unless its weight is 0."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    parallel_tool_calls: bool | None = None


class CompletionExample(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A raw prompt and its completion, without a chat template."""

    prompt: str
    completion: str


Example = NLFTExample | ChatExample | CompletionExample

RowFormat = Literal["nlft", "chat", "completion"]

EXAMPLE_TYPES: Mapping[RowFormat, type[Example]] = MappingProxyType(
    {"nlft": NLFTExample, "chat": ChatExample, "completion": CompletionExample}
)

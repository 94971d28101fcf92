"""What a well-typed row must also satisfy to be trained on: rules about meaning, one place for reader and diagnosis.

Reasons name the place and the remedy and never quote a row's content.
"""

from collections.abc import Iterator
from typing import NamedTuple

from worker.training.data.examples import ChatExample, CompletionExample, Example, Message, NLFTExample


class Fault(NamedTuple):
    """One fault inside a row: field ``path`` (empty: the row itself), machine ``code``, ``reason`` with the remedy."""

    path: str
    code: str
    reason: str


def find_faults(row: Example) -> Iterator[Fault]:
    """Yield what forbids training on ``row``."""
    if isinstance(row, NLFTExample):
        yield from _nlft_faults(row)
    elif isinstance(row, ChatExample):
        yield from _chat_faults(row)
    else:
        yield from _completion_faults(row)


def is_trained(message: Message) -> bool:
    """Return whether ``message`` is an assistant turn that training scores: its weight is not 0."""
    return message.role == "assistant" and message.weight != 0


def _nlft_faults(row: NLFTExample) -> Iterator[Fault]:
    yield from _message_faults(row.messages)
    if row.messages and row.messages[-1].role == "assistant":
        yield from _final_turn_faults(row, row.messages[-1], f"messages[{len(row.messages) - 1}]")
    for path, text in (("response", row.response), ("reference", row.reference), ("judgment", row.judgment)):
        if text is not None and _is_blank(text):
            yield Fault(path, f"empty_{path}", f"`{path}` holds no text; write some, use null or leave the field out")
    if row.answer is None:
        yield from _faults_without_response(row)
    elif row.judgment is not None and row.correct is True:
        yield Fault(
            "judgment",
            "judgment_on_correct_response",
            "a response marked `correct: true` has no weakness to name; drop `judgment` or set `correct` to false",
        )


def _final_turn_faults(row: NLFTExample, turn: Message, path: str) -> Iterator[Fault]:
    """Yield what keeps an assistant turn at the end of the messages from being the response."""
    if row.response is not None:
        yield Fault(
            f"{path}.role",
            "prompt_ends_with_assistant",
            "the messages end with an assistant turn, which is a response, beside `response`; keep one of the two",
        )
    elif row.reference is None and row.correct is None and row.judgment is None:
        yield Fault("reference", "missing_reference", "this is a chat row; keep one format a file")
    elif not is_trained(turn):
        yield Fault(f"{path}.weight", "untrained_response", "the response has `weight` 0; drop the weight or the row")
    elif not turn.tool_calls and _is_blank(turn.text or turn.refusal or ""):
        yield Fault(f"{path}.content", "empty_response", "the response needs text or tool calls; write some")


def _faults_without_response(row: NLFTExample) -> Iterator[Fault]:
    if row.reference is None:
        yield Fault(
            "response", "missing_response", "a row needs a `response`, or a `reference` to judge a sampled one by"
        )
    for path, present in (("judgment", row.judgment is not None), ("correct", row.correct is not None)):
        if present:
            yield Fault(
                path, f"{path}_without_response", f"`{path}` speaks about a `response` that the row does not have"
            )


def _chat_faults(row: ChatExample) -> Iterator[Fault]:
    yield from _message_faults(row.messages)
    if row.messages and not any(is_trained(message) for message in row.messages):
        yield Fault(
            "messages",
            "no_assistant_turn",
            "there is no assistant turn to train on; add one, or give one a `weight` of 1",
        )
    for index, message in enumerate(row.messages):
        if is_trained(message) and not message.tool_calls and _is_blank(message.text or message.refusal or ""):
            yield Fault(
                f"messages[{index}].content",
                "empty_response",
                "an assistant turn that is trained needs text or tool calls; write some or set its `weight` to 0",
            )


def _completion_faults(row: CompletionExample) -> Iterator[Fault]:
    if _is_blank(row.completion):
        yield Fault("completion", "empty_completion", "`completion` holds no text to train on")


def _message_faults(messages: list[Message]) -> Iterator[Fault]:
    if not messages:
        yield Fault("messages", "empty_messages", "`messages` is empty; put at least one user turn in")
    for index, message in enumerate(messages):
        if message.role == "assistant":
            continue
        path = f"messages[{index}]"
        if message.content is None:
            yield Fault(f"{path}.content", "missing_content", f"a {message.role} turn needs `content`")
        if message.tool_calls is not None or message.weight is not None or message.refusal is not None:
            yield Fault(
                path, "assistant_only_field", "`tool_calls`, `weight` and `refusal` belong to assistant turns only"
            )
        if message.role == "tool" and message.tool_call_id is None:
            yield Fault(f"{path}.tool_call_id", "missing_field", "a tool turn needs the `tool_call_id` that it answers")


def _is_blank(text: str) -> bool:
    return not text or text.isspace()

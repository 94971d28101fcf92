import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tests.fixtures.tiny_models import Template, build_tokenizer
from worker.training.data.examples import FunctionCall, Message, NLFTExample, ToolCall
from worker.training.data.rendering import ModelRenderer, RenderingError
from worker.training.errors import BaseModelError
from worker.training.types import TokenSequence

SYSTEM, USER = Message("system", "Be brief."), Message("user", "What is 1 + 1?")
CHAT = [USER, Message("assistant", "the 2"), Message("user", "And 12?"), Message("assistant", "24")]

# The behaviour of SmolLM2's template: a default system turn where the chat has none.
DEFAULT_SYSTEM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The behaviour of Qwen3's: only the last answer keeps its thoughts.
REWRITING = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOOLS = (
    "{% for tool in tools or [] %}{{ 'Tool: ' + tool['function']['name'] + '\n' }}{% endfor %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}{{ '<call>' + call['function']['name'] + ' ' }}"
    "{{ call['function']['arguments']['x'] }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer_with(template: str) -> PreTrainedTokenizerFast:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def text(renderer: ModelRenderer, ids: NDArray[np.int32]) -> str:
    return str(renderer.tokenizer.decode(ids))


def parts(renderer: ModelRenderer, sequence: TokenSequence) -> tuple[str, str]:
    return text(renderer, sequence.input_ids), text(renderer, sequence.input_ids[sequence.scored])


@pytest.mark.parametrize("template", ["chatml", "no_system", "none"])
def test_response_ids_are_the_same_behind_every_prompt(template: Template) -> None:
    renderer = ModelRenderer(build_tokenizer(template))
    prompts = [[USER], [SYSTEM, USER], [*CHAT[:3]], [Message("user", "ends in a th")]]
    scored = [sequence.input_ids[sequence.scored] for sequence in (renderer.exchange(p, " the 12") for p in prompts)]
    alone = renderer.tokenizer(" the 12", add_special_tokens=False).input_ids
    assert all(ids.tolist() == [*alone, renderer.end_of_turn_id] for ids in scored)


def test_an_exchange_is_the_template_then_the_response_and_the_end_of_turn() -> None:
    renderer = ModelRenderer(build_tokenizer())
    sequence = renderer.exchange([SYSTEM, USER], "the 2")
    whole, scored = parts(renderer, sequence)
    assert whole == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n"
        "<|im_start|>assistant\nthe 2<|im_end|>"
    )
    assert scored == "the 2<|im_end|>"
    assert {sequence.input_ids.dtype, sequence.scored.dtype} == {np.dtype(np.int32)}


def test_a_prompt_is_what_an_exchange_begins_with() -> None:
    renderer = ModelRenderer(build_tokenizer())
    prompt = renderer.prompt([USER])
    assert renderer.exchange([USER], "2").input_ids[: len(prompt)].tolist() == prompt.tolist()


def test_a_default_system_turn_of_the_template_is_kept() -> None:
    renderer = ModelRenderer(tokenizer_with(DEFAULT_SYSTEM))
    assert text(renderer, renderer.prompt([USER])).startswith("<|im_start|>system\nYou are helpful")
    assert parts(renderer, renderer.conversation(CHAT))[1] == "the 2<|im_end|>24<|im_end|>"


def test_a_template_without_system_role_gets_it_in_the_first_user_turn() -> None:
    renderer = ModelRenderer(build_tokenizer("no_system"))
    assert "<|im_start|>user\nBe brief.\n\nWhat is 1 + 1?<|im_end|>" in text(renderer, renderer.prompt([SYSTEM, USER]))
    assert text(renderer, renderer.prompt([SYSTEM])).startswith("<|im_start|>user\nBe brief.")


def test_developer_means_system() -> None:
    renderer = ModelRenderer(build_tokenizer())
    assert (
        renderer.prompt([Message("developer", "x"), USER]).tolist()
        == renderer.prompt([Message("system", "x"), USER]).tolist()
    )


def test_a_model_without_template_gets_the_plain_one() -> None:
    renderer = ModelRenderer(build_tokenizer("none"))
    whole, scored = parts(renderer, renderer.exchange([SYSTEM, USER], "2"))
    assert whole == "System:\nBe brief.\n\nUser:\nWhat is 1 + 1?\n\nAssistant:\n2<|im_end|>"
    assert scored == "2<|im_end|>"


@pytest.mark.parametrize("template", ["chatml", "no_system", "none"])
def test_every_assistant_turn_of_a_conversation_is_scored(template: Template) -> None:
    renderer = ModelRenderer(build_tokenizer(template))
    sequence = renderer.conversation([SYSTEM, *CHAT])
    assert parts(renderer, sequence)[1] == "the 2<|im_end|>24<|im_end|>"
    assert sequence.scored.tolist() == sorted(set(sequence.scored.tolist()))


def test_a_turn_of_weight_0_is_context_only() -> None:
    renderer = ModelRenderer(build_tokenizer())
    quiet = [CHAT[0], Message("assistant", "the 2", weight=0), *CHAT[2:]]
    whole, scored = parts(renderer, renderer.conversation(quiet))
    assert scored == "24<|im_end|>"
    assert "the 2<|im_end|>" in whole


def test_one_turn_conversations_and_exchanges_agree() -> None:
    renderer = ModelRenderer(build_tokenizer())
    conversation, exchange = renderer.conversation(CHAT[:2]), renderer.exchange(CHAT[:1], "the 2")
    assert conversation.input_ids.tolist() == exchange.input_ids.tolist()
    assert conversation.scored.tolist() == exchange.scored.tolist()


def test_a_refusal_is_an_answer() -> None:
    renderer = ModelRenderer(build_tokenizer())
    assert (
        parts(renderer, renderer.conversation([USER, Message("assistant", refusal="I won't")]))[1]
        == "I won't<|im_end|>"
    )


def test_a_template_that_keeps_only_the_last_thoughts_renders_its_last_turn() -> None:
    renderer = ModelRenderer(tokenizer_with(REWRITING))
    assert parts(renderer, renderer.conversation(CHAT))[1] == "the 2<|im_end|><think>\n\n</think>\n\n24<|im_end|>"


def test_a_template_that_rewrites_history_is_refused() -> None:
    counting = "{{ messages | length }}" + DEFAULT_SYSTEM
    with pytest.raises(RenderingError, match="a row of its own"):
        ModelRenderer(tokenizer_with(counting)).conversation(CHAT)


def test_tool_calls_are_scored_as_the_template_writes_them() -> None:
    renderer = ModelRenderer(tokenizer_with(TOOLS))
    call = ToolCall("1", FunctionCall("add", '{"x": 7}'))
    turns = [USER, Message("assistant", tool_calls=[call]), Message("tool", "8", tool_call_id="1"), CHAT[3]]
    tool = {"type": "function", "function": {"name": "add"}}
    assert parts(renderer, renderer.conversation(turns, [tool]))[1] == "<call>add 7<|im_end|>24<|im_end|>"


def test_tools_that_the_template_drops_are_refused() -> None:
    renderer = ModelRenderer(build_tokenizer())
    call = ToolCall("1", FunctionCall("frobnicate", "not json"))
    with pytest.raises(RenderingError, match="does not render tools"):
        renderer.conversation([USER, Message("assistant", "x", tool_calls=[call])])


def test_messages_that_the_template_refuses_are_an_error_without_content() -> None:
    strict = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('first ' + messages[0]['content']) }}{% endif %}"
    renderer = ModelRenderer(tokenizer_with(strict + DEFAULT_SYSTEM))
    with pytest.raises(RenderingError) as caught:
        renderer.prompt([Message("assistant", "secret"), USER])
    assert "secret" not in str(caught.value)


def test_a_completion_is_raw_text_with_an_end() -> None:
    renderer = ModelRenderer(build_tokenizer())
    whole, scored = parts(renderer, renderer.completion("1 + 1 =", " 2"))
    assert (whole, scored) == ("1 + 1 = 2<|im_end|>", " 2<|im_end|>")
    assert renderer.completion("", "2").scored.tolist() == [1, 2]


def test_a_tokenizer_that_adds_a_begin_token_keeps_it_for_raw_text() -> None:
    beginning = build_tokenizer("none")
    beginning.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    renderer = ModelRenderer(beginning)
    assert text(renderer, renderer.completion("a", "b").input_ids) == "<|endoftext|>ab<|im_end|>"
    assert text(renderer, renderer.prompt([USER])).startswith("<|endoftext|>User:")
    assert text(renderer, renderer.conversation(CHAT).input_ids).count("<|endoftext|>") == 1


def test_a_tokenizer_that_cannot_end_a_response_is_refused() -> None:
    tokenizer = build_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(BaseModelError, match="end-of-sequence"):
        ModelRenderer(tokenizer)


CALL = Message("assistant", "", tool_calls=[ToolCall("1", FunctionCall("add", '{"x": 1}'))])
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}


def test_a_final_turn_is_the_response_as_the_template_writes_it() -> None:
    renderer = ModelRenderer(tokenizer_with(TOOLS))
    row = NLFTExample([*CHAT[:2], USER, CALL], reference="2", tools=[TOOL])
    assert renderer.response_text(row) == "<call>add 1"
    whole, scored = parts(renderer, renderer.exchange(row.prompt, renderer.response_text(row), row.tools))
    assert whole.startswith("Tool: add\n")
    assert scored == "<call>add 1<|im_end|>"
    assert row.answer_text == '{"name": "add", "arguments": "{\\"x\\": 1}"}'


@pytest.mark.parametrize("template", ["chatml", "no_system", "none"])
def test_a_final_turn_of_text_is_that_text(template: Template) -> None:
    renderer = ModelRenderer(build_tokenizer(template))
    row = NLFTExample([SYSTEM, *CHAT], reference="24")
    assert renderer.response_text(row) == "24"
    as_field = NLFTExample([SYSTEM, *CHAT[:3]], response="24", reference="24")
    assert (row.prompt, row.answer_text) == (as_field.prompt, as_field.answer_text)


@pytest.mark.parametrize("row", [NLFTExample([USER], "2", tools=[TOOL]), NLFTExample([USER, CALL])])
def test_a_template_that_drops_tools_is_refused_for_nlft_rows_too(row: NLFTExample) -> None:
    renderer = ModelRenderer(build_tokenizer())
    with pytest.raises(RenderingError, match="does not render tools"):
        renderer.exchange(row.prompt, renderer.response_text(row), row.tools)

from typing import Any

import pytest
from pydantic import ValidationError

from tests.training.builders import FACTS, question
from worker.training.data.examples import Message, NLFTExample, TextPart
from worker.training.methods.nlft import NLFTHyperparameters
from worker.training.methods.prompts import (
    PROMPT_SETS,
    Prompt,
    PromptSet,
    PromptTurn,
    guide,
    show_judgment,
    show_reference,
)

LONG = "{{ question }}{{ reference }}" + "x" * 20_000


def test_guidance_goes_into_the_last_user_turn_and_nothing_else_changes() -> None:
    messages = [Message("system", "s"), *question("first"), Message("assistant", "a"), *question("second")]
    guided = guide(messages, "{{ question }} -> {{reference}}", {"reference": "g"})
    assert guided[:3] == messages[:3]
    assert guided[3].text == "second -> g"


def test_texts_that_look_like_templates_are_taken_literally() -> None:
    guided = guide(question("{{ reference }} {0}"), "{{ reference }}|{{ question }}", {"reference": "{{ question }}"})
    assert guided[0].text == "{{ question }}|{{ reference }} {0}"


def test_text_parts_become_text() -> None:
    parts = [Message("user", [TextPart("a"), TextPart("b")])]
    assert guide(parts, "{{ question }}{{ reference }}", {"reference": "c"})[0].text == "abc"


def test_a_prompt_without_user_turn_gets_one() -> None:
    guided = guide([Message("system", "s")], "{{ question }}\n{{ reference }}", {"reference": "g"})
    assert [(message.role, message.text) for message in guided] == [("system", "s"), ("user", "g")]


def test_turns_behind_the_last_user_turn_stay() -> None:
    chat = [*question("q"), Message("assistant", "calling"), Message("tool", "7", tool_call_id="c")]
    assert guide(chat, "{{ question }}{{ reference }}", {"reference": "g"})[1:] == chat[1:]


def turns(*parts: tuple[Any, str]) -> list[PromptTurn]:
    return [PromptTurn(role=role, content=content) for role, content in parts]


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ([], [("system", "Look: g"), ("user", "q")]),
        ([Message("system", "Be kind.")], [("system", "Look: g\n\nBe kind."), ("user", "q")]),
        (question("earlier"), [("system", "Look: g"), ("user", "earlier"), ("user", "q")]),
    ],
)
def test_a_prompt_of_several_turns(before: list[Message], expected: list[tuple[str, str]]) -> None:
    prompt = turns(("system", "Look: {{ reference }}"), ("user", "{{ question }}"))
    guided = guide([*before, *question("q")], prompt, {"reference": "g"})
    assert [(message.role, message.text) for message in guided] == expected


def test_the_default_puts_guidance_behind_the_question_and_the_paper_before_the_guidance_what_to_do() -> None:
    row = NLFTExample(question("Why?"), response="r", reference="so")
    texts = {name: show_reference(row, name, "so")[0].text for name in PROMPT_SETS}
    assert texts["default"].startswith("Why?")
    assert texts["default"].index("Why?") < texts["default"].index("so")
    instruction, asked, shown = (texts["paper"].index(part) for part in ("Consult", "Why?", ": so"))
    assert instruction < asked < shown


def test_a_judgment_prompt_may_also_show_the_reference() -> None:
    prompts = PromptSet(judgment="{{ question }} {{ reference }} {{ judgment }}")
    row = NLFTExample(question("q"), response="r", reference="ref")
    assert show_judgment(row, prompts, "bad")[0].text == "q ref bad"


def test_what_a_job_leaves_out_is_the_defaults() -> None:
    assert PromptSet(reference="{{ question }}{{ reference }}").judgment == PROMPT_SETS["default"].judgment


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        ({"reference": "{{ question }}"}, "must contain {{ reference }}"),
        ({"reference": ""}, "empty"),
        ({"reference": LONG}, "at most 20000"),
        ({"reference": "{{ question }}{{ reference }}{{ judgment }}"}, "'judgment' is not known here"),
        ({"judgment": "{{ question }}{{ judgment }}{{ item.x }}"}, "'item.x' is not known here"),
        ({"judgment": "{{ question }}{{ judgment | upper }}"}, "not known here"),
        ({"judgment": "{{ question.__class__ }}{{ judgment }}"}, "not known here"),
        ({"judgment": "{{ question }}{{ judgment }}{% for x in y %}"}, "braces do not match"),
        ({"judgment": "{{ question }}{{ judgment }}}}"}, "braces do not match"),
        ({"judgment": []}, "at least 1 item"),
        ({"judgment": [{"role": "tool", "content": "x"}]}, "'system', 'user' or 'assistant'"),
        ({"judgment": [{"role": "user", "content": "{{ question }}{{ judgment }}", "name": "x"}]}, "not permitted"),
        ({"judgment": [{"role": "system", "content": "{{ question }}{{ judgment }}"}]}, "the last turn must be"),
        ({"other": "x"}, "not permitted"),
        ("poetic", "'default' or 'paper'"),
        (3, "valid dictionary"),
    ],
)
def test_unfit_prompts_are_refused_with_one_reason(prompts: Any, told: str) -> None:
    with pytest.raises(ValidationError, match=r".*") as caught:
        NLFTHyperparameters.resolve({"prompts": prompts}, FACTS)
    assert caught.value.error_count() == 1
    assert told in str(caught.value)


def test_hyperparameters_spell_the_prompts_out() -> None:
    named = NLFTHyperparameters(prompts="paper").spelled_out()["prompts"]
    assert named == PROMPT_SETS["paper"].model_dump()
    own: Prompt = "{{ question }}{{ reference }}"
    assert NLFTHyperparameters(prompts=PromptSet(reference=own)).spelled_out()["prompts"]["reference"] == own


def test_prompts_survive_being_stored() -> None:
    chosen = NLFTHyperparameters(
        prompts=PromptSet(judgment=turns(("system", "{{ judgment }}"), ("user", "{{ question }}")))
    )
    assert NLFTHyperparameters.resolve(chosen.model_dump(mode="json"), FACTS) == chosen

from tests.training.builders import question
from worker.training.data.examples import Message, TextPart
from worker.training.methods.prompts import PROMPT_SETS, guide


def test_guidance_goes_into_the_last_user_turn_and_nothing_else_changes() -> None:
    messages = [Message("system", "s"), *question("first"), Message("assistant", "a"), *question("second")]
    guided = guide(messages, "{question} -> {guidance}", "g")
    assert guided[:3] == messages[:3]
    assert guided[3].text == "second -> g"


def test_braces_in_texts_are_taken_literally() -> None:
    assert (
        guide(question("{guidance} {0}"), "{guidance}|{question}", "{question}")[0].text == "{question}|{guidance} {0}"
    )


def test_text_parts_become_text() -> None:
    assert guide([Message("user", [TextPart("a"), TextPart("b")])], "{question}{guidance}", "c")[0].text == "abc"


def test_a_prompt_without_user_turn_gets_one() -> None:
    guided = guide([Message("system", "s")], "{question}\n{guidance}", "g")
    assert [(message.role, message.text) for message in guided] == [("system", "s"), ("user", "g")]


def test_every_prompt_set_uses_question_and_guidance_once() -> None:
    for prompts in PROMPT_SETS.values():
        for template in (prompts.reference, prompts.judgment):
            assert (template.count("{question}"), template.count("{guidance}")) == (1, 1)

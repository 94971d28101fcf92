import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.training.syntax.templates import TemplateError, check_row_template, check_template, render

VALUES: dict[str, Any] = {
    "item": {"a": "A", "n": 3, "list": ["x", {"y": "Y"}], "nothing": None, "two words": "W", "dict": {"k": [1, "é"]}},
    "sample": {"output_text": "{{ item.a }}", "output_tools": []},
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("", ""),
        ("plain { brace } {", "plain { brace } {"),
        ("{{item.a}}-{{ item.a }}", "A-A"),
        ("{{ item.n }}", "3"),
        ("{{ item.list[1].y }}", "Y"),
        ("{{ item['two words'] }}", "W"),
        ('{{ item["a"] }}', "A"),
        ("{{ item.nothing }}!", "!"),
        ("{{ item.dict }}", '{"k": [1, "é"]}'),
        ("{{ sample.output_text }}", "{{ item.a }}"),
        ("{{ sample.output_tools }}", "[]"),
    ],
)
def test_names_are_replaced_once(template: str, text: str) -> None:
    assert render(check_template(template), VALUES) == text


@pytest.mark.parametrize(
    "template",
    [
        "{{ item.a", "item.a }}", "{{}}", "{{ }}", "{% if item.a %}x{% endif %}", "{{ item.a | upper }}",
        "{{ item.a() }}",
        "{{ item.a + 1 }}", "{{ a }}", "{{ config }}", "{{ self }}", "{{ sample }}", "{{ sample.secret }}",
        "{{ item. a }}", "{{ item[a] }}", "{{ item[-1] }}", "{{ {{ item.a }} }}", "{{ 'x' }}", "{{ item..a }}",
    ],
)  # fmt: skip
def test_anything_but_a_known_name_is_refused(template: str) -> None:
    with pytest.raises(TemplateError):
        check_template(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ item.__class__ }}",
        "{{ item.a.__class__.__mro__ }}",
        "{{ item.a.upper }}",
        "{{ item.list[7] }}",
        "{{ item.n.real }}",
    ],
)
def test_nothing_but_fields_and_positions_can_be_reached(template: str) -> None:
    with pytest.raises(TemplateError, match="there is no item"):
        render(template, VALUES)


def test_rows_have_fixed_names() -> None:
    assert check_row_template("{{ item.reference }} {{ sample.output_json.x }}")
    for template in ("{{ item }}", "{{ item.answer }}"):
        with pytest.raises(TemplateError, match="messages, question, reference, judgment"):
            check_row_template(template)


@given(st.text(alphabet="{}%item.sample[]0'\" _output_text", max_size=60))
def test_any_text_is_rendered_or_refused(template: str) -> None:
    try:
        check_template(template)
        render(template, VALUES)
    except TemplateError:
        pass


def test_long_templates_are_quick() -> None:
    started = time.monotonic()
    for template in ("{{ item" + ".a" * 9_000 + " }}", "{{" * 10_000, "{{ item.a }}" * 1_600, "{{ " + " " * 19_000):
        with suppress(TemplateError):
            render(template, VALUES)
    assert time.monotonic() - started < 2


def test_a_short_template_makes_no_endless_text() -> None:
    with pytest.raises(TemplateError, match="1,000,000 characters"):
        render("{{ item.x }}" * 1_000, {"item": {"x": "x" * 900_000}})

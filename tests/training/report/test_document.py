"""What the report says, read from its HTML without a browser."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.training.builders import FACTS
from tests.training.report.stories import HOSTILE, RIGHT, WRONG, cost, record, step_record, story, token
from worker.training.advice import Advice
from worker.training.building.report import BuildReport
from worker.training.data.examples import ChatExample, CompletionExample, FunctionCall, Message, NLFTExample, ToolCall
from worker.training.methods import METHODS
from worker.training.preparation import Recipe
from worker.training.report.document import render_report

VOID = {"meta", "input", "img", "br"}
LOADING = {"src", "srcset", "href", "xlink:href", "data", "action", "background", "poster", "style"}


class Reading(HTMLParser):
    """Tags with their attributes, visible text, and whether tags nest as they should."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] not in (["style"], ["script"]):
            self.text += data

    def of_class(self, name: str) -> list[dict[str, str]]:
        return [attributes for _, attributes in self.tags if name in attributes.get("class", "").split()]


def read(**changes: Any) -> Reading:
    return Reading(render_report(story(**changes)))


def test_it_tells_what_happened() -> None:
    page = read()
    for told in (
        "ftjob-1",
        "nlft",
        "tiny",
        "75.0%",
        "from 25.0% before training",
        "1 right, 1 wrong",
        "400",
        "2 epochs",
    ):
        assert told in page.text
    assert "/secret/models" not in page.text


def test_every_token_carries_its_figures() -> None:
    tokens = read().of_class("t")
    assert len(tokens) == 6
    lowered = next(attributes for attributes in tokens if "w-lower" in attributes["class"])
    assert lowered["data-tip"].splitlines() == [
        "weight 1.200 · ▼ lower · salient",
        "plain prompt  80 % → 10 %",
        "with reference  90 %",
        "with judgment  80 %",
    ]
    assert {"ks", "w12", "b16", "a2", "c14", "c-lower"} <= set(lowered["class"].split())
    masked = tokens[-1]["class"].split()
    assert {"w0", "w-none", "special"} <= set(masked)


def test_right_rows_come_before_wrong_ones() -> None:
    text = read().text
    assert text.index("✓ right response") < text.index("✗ wrong response")


def test_views_at_the_end_are_offered_only_where_something_moved() -> None:
    still = [token("a", 0.5, 1.0)], [token("a", 0.6, 1.0)]
    moved = [token("a", 0.5, 1.0)], [token("a", 0.6, 0.7)]
    for pair, expected in ((still, False), (moved, True)):
        history = [record(1, True, step, *tokens) for step, tokens in zip((0, 4), pair, strict=True)]
        page = read(history=history)
        assert bool(page.of_class("pick-later")) is expected
        assert page.of_class("pick-change")
    only_start = read(history=[record(1, True, 0, *still[0])])
    assert not only_start.of_class("pick-after")


def test_nothing_is_asked_of_anybody() -> None:
    html = render_report(story())
    page = Reading(html)
    outside = [
        (tag, value)
        for tag, attributes in page.tags
        for name, value in attributes.items()
        if name in LOADING and not value.startswith("#")
    ]
    assert outside == [("a", METHODS["nlft"].paper)]
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", html)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


HOSTILE_ROW = NLFTExample(
    [Message("user", HOSTILE)], response=HOSTILE, reference=HOSTILE, judgment=HOSTILE, correct=False
)


@pytest.mark.parametrize(
    "example",
    [
        HOSTILE_ROW,
        CompletionExample(HOSTILE, HOSTILE),
        ChatExample(
            [
                Message("system", HOSTILE, name=HOSTILE),
                Message("assistant", tool_calls=[ToolCall(HOSTILE, FunctionCall(HOSTILE, HOSTILE))]),
            ]
        ),
    ],
    ids=lambda example: type(example).__name__,
)
def test_hostile_rows_are_only_text(example: Any) -> None:
    history = [record(1, False, step, token(HOSTILE, 0.5), token("\x00\ud7ff", 0.5)) for step in (0, 4)]
    page = read(history=history, pinned={1: example}, costs=[cost(1, example, 1.0)])
    assert HOSTILE.replace("\n", "↵\n") in page.text
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert [tag for tag, _ in page.tags].count("style") == 1
    assert not any(tag in {"img", "iframe", "object", "embed", "link"} for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_names_from_outside_are_only_text() -> None:
    spec = story().spec.model_copy(update={"job_id": HOSTILE})
    page = read(spec=spec)
    assert [tag for tag, _ in page.tags].count("script") == 1


def test_a_method_whose_tokens_weigh_the_same() -> None:
    method = METHODS["supervised"]
    history = [record(1, None, step, token("a", 0.5, 1.0, reference=None)) for step in (0, 4)]
    page = read(
        recipe=Recipe(method, method.hyperparameters_type.resolve({}, FACTS)),
        history=history,
        weight_counts=[],
        metrics={},
    )
    assert "no histogram" in page.text
    assert "with reference" not in page.text
    assert "right response" not in page.text


def test_a_run_without_followed_rows_or_steps() -> None:
    page = read(history=[], pinned={}, steps=[], costs=[], weight_counts=[], metrics={})
    assert "Settings" in page.text
    assert not page.of_class("example")


@pytest.mark.parametrize("steps", [1, 2, 24, 3000])
def test_curves_of_any_length_stay_small(steps: int) -> None:
    html = render_report(story(steps=[step_record(step, valid=step % 10 == 0) for step in range(1, steps + 1)]))
    assert len(html) < 150_000
    assert "NaN" not in html
    assert "inf" not in re.findall(r'd="([^"]*)"', html)


def test_a_long_response_is_cut_and_says_so() -> None:
    history = [record(1, True, step, *[token("x", 0.5)] * 2000) for step in (0, 4)]
    page = read(history=history)
    assert len(page.of_class("t")) == 800
    assert "1200 more tokens" in page.text


def test_settings_that_differ_are_marked() -> None:
    page = read()
    own = page.of_class("own")
    assert len(own) == 2  # n_epochs and batch_size


def test_it_is_the_same_bytes_for_the_same_run(tmp_path: Path) -> None:
    assert render_report(story()) == render_report(story(pinned={2: WRONG, 1: RIGHT}))


def test_it_tells_how_the_rows_were_made_and_what_deserves_a_look() -> None:
    report = BuildReport(
        questions=2, responses=8, response_tokens=80, cut_off=1, base_right=2, graded=7, judged=5, right=2, wrong=5
    )
    advice = [
        Advice("few_rows", "warn", "Only 7 rows & <b>no</b> more."),
        Advice("long_references", "info", "References are long."),
    ]
    page = read(building=report, advice=advice)
    for told in (
        "The data",
        "8 responses to 2 questions, 10 tokens on average; left out: 1 cut off at the limit.",
        "The base model answers 25.0% right.",
        "5 judgments written.",
        "7 rows built: 2 right, 5 wrong.",
        "Only 7 rows & <b>no</b> more.",
        "References are long.",
    ):
        assert told in page.text, told
    assert ("a", {"href": "#data"}) in page.tags


def test_a_run_of_complete_rows_without_advice_has_no_section_about_the_data() -> None:
    page = read()
    assert "The data" not in page.text
    assert all(attributes.get("href") != "#data" for _, attributes in page.tags)


def test_stages_that_had_nothing_to_do_are_not_told_of() -> None:
    page = read(building=BuildReport(graded=3, right=2, wrong=1))
    assert "3 responses graded." in page.text
    assert "responses to" not in page.text
    assert "judgments written" not in page.text

from typing import Any

import pytest
from rich.console import Console

from app.cli.token_colors import draw_figures, draw_legend, draw_record
from worker.training.saliency_record import ExampleRef, SaliencyRecord, SaliencyToken


def token(text: str, **fields: Any) -> SaliencyToken:
    known: dict[str, Any] = {"id": 1, "base": 0.25, "frozen_base": None, "reference": 0.5, "judgment": None}
    known |= {"weight": 1.0, "class_": "other", "direction": "raise"}
    return SaliencyToken(text=text, **(known | fields))


TOKENS = [
    token("It is", weight=2.0, class_="salient"),
    token(" 7", weight=1.2, direction="lower", class_="salient", judgment=0.9),
    token("\n", weight=0.0, direction="none"),
    token(""),
    token("[bold]\x1b[31m\x07"),
]
RECORD = SaliencyRecord(ExampleRef(3, correct=False), 25, 1.25, 4.2, TOKENS)


def printed(drawing: Any, *, colours: bool = True) -> str:
    console = Console(force_terminal=colours, color_system="truecolor" if colours else None, width=100)
    with console.capture() as capture:
        console.print(drawing)
    return capture.get()


def test_colours_follow_weight_and_direction() -> None:
    text = printed(draw_record(RECORD))
    assert "4;37;48;2;37;99;235mIt is" in text  # underlined, full blue
    assert "48;2;141;54;16m 7" in text  # orange, three fifths
    assert "\x1b[2;9m↵" in text  # masked: dim and struck through


@pytest.mark.parametrize("view", ["base", "reference", "judgment"])
def test_other_views_show_probabilities(view: Any) -> None:
    assert "48;2;" in printed(draw_record(RECORD, view=view))


def test_without_colours_it_is_plain_text() -> None:
    text = printed(draw_record(RECORD), colours=False)
    assert "\x1b" not in text
    assert "line 3  ✗ wrong  step 25  loss 1.250  weights 4.2" in text
    assert "It is 7↵" in text


def test_a_token_cannot_command_the_terminal() -> None:
    for drawing in (draw_record(RECORD), draw_figures(RECORD)):
        text = printed(drawing, colours=False)
        assert "[bold]\ufffd[31m\ufffd" in text
        assert "\x07" not in printed(drawing)


def test_figures_of_every_token() -> None:
    lines = printed(draw_figures(RECORD), colours=False).splitlines()
    assert lines[0].split() == ["token", "weight", "class", "P", "base", "P", "reference", "P", "judgment"]
    assert lines[2].split() == ["7", "1.200", "▼", "salient", "0.2500", "0.5000", "0.9000"]
    assert len(lines) == 1 + len(TOKENS)


def test_a_method_without_guidance_has_fewer_columns() -> None:
    record = SaliencyRecord(ExampleRef(1, correct=None), 0, 1.0, 1.0, [token("a", reference=None)])
    assert "reference" not in printed(draw_figures(record), colours=False)
    assert printed(draw_legend(), colours=False).split() == ["raised", "lowered", "likely", "salient", "weight", "0"]

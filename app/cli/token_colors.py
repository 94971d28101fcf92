"""Saliency records in a terminal: tokens in colour, by weight and direction or by probability."""

from collections.abc import Sequence
from typing import Literal

from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from worker.training.saliency_record import SaliencyRecord, SaliencyToken

View = Literal["weight", "base", "reference", "judgment"]

_LARGEST_WEIGHT = 2.0
_RAISED, _LOWERED, _LIKELY = (37, 99, 235), (217, 83, 25), (13, 128, 108)
_FAINTEST = 0.12
_ARROWS = {"raise": "▲", "lower": "▼", "none": "–"}


def draw_record(record: SaliencyRecord, *, view: View = "weight") -> RenderableType:
    """Return a row: a headline, its tokens on coloured ground, salient ones underlined, masked ones struck through.

    Args:
        record: What a method makes of the row.
        view: What the ground shows: the weight (blue raises, orange lowers), or one of the probabilities (green).
    """
    verdict = {True: ("✓ right", "green"), False: ("✗ wrong", "red"), None: ("", "")}[record.example.correct]
    headline = Text.assemble(
        (f"line {record.example.file_line}", "bold"),
        "  ",
        verdict,
        (f"  step {record.step}  loss {record.loss:.3f}  weights {record.weights_sum:.1f}", "dim"),
    )
    tokens = Text(overflow="fold")
    for token in record.tokens:
        tokens.append(_visible(token.text), _style(token, view))
    return Group(headline, tokens)


def draw_legend() -> Text:
    """Return what the colours mean."""
    return Text.assemble(
        (" raised ", _ground(_RAISED, 0.8)),
        " ",
        (" lowered ", _ground(_LOWERED, 0.8)),
        " ",
        (" likely ", _ground(_LIKELY, 0.8)),
        " ",
        ("salient", "underline"),
        " ",
        ("weight 0", "strike dim"),
    )


def draw_figures(record: SaliencyRecord) -> Table:
    """Return every figure of the row's tokens as a table."""
    table = Table("token", "weight", "", "class", box=None, header_style="dim", pad_edge=False)
    names = [name for name in ("base", "reference", "judgment") if _has(record.tokens, name)]
    for name in names:
        table.add_column(f"P {name}", justify="right")
    for token in record.tokens:
        figures = [_say(getattr(token, name)) for name in names]
        weight, arrow = f"{token.weight:.3f}", _ARROWS[token.direction]
        # Text, not str: a token may look like markup.
        table.add_row(Text(_visible(token.text).rstrip("\n")), weight, arrow, token.class_, *figures)
    return table


def _style(token: SaliencyToken, view: View) -> Style:
    if view == "weight":
        color = _LOWERED if token.direction == "lower" else _RAISED
        style = _ground(color, token.weight / _LARGEST_WEIGHT)
        masked = token.direction == "none"
        return style + Style(underline=token.class_ == "salient", dim=masked, strike=masked)
    return _ground(_LIKELY, getattr(token, view) or 0.0)


def _ground(color: tuple[int, int, int], share: float) -> Style:
    """Return a background between black and ``color`` with text that can be read on it; none for the faintest."""
    share = min(1.0, max(0.0, share))
    if share < _FAINTEST / 2:
        return Style()
    red, green, blue = (round(part * (_FAINTEST + (1 - _FAINTEST) * share)) for part in color)
    return Style(color="white", bgcolor=f"rgb({red},{green},{blue})")


def _visible(text: str) -> str:
    """Return ``text`` with a mark before line breaks, and nothing a terminal would obey."""
    shown = "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)
    return shown.replace("\n", "↵\n") or "·"


def _say(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _has(tokens: Sequence[SaliencyToken], name: str) -> bool:
    return any(getattr(token, name) is not None for token in tokens)

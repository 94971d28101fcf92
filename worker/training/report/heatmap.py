"""The token heatmap: how each token is coloured in each view, and what is said about it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.training.data.examples import NLFTExample
from worker.training.report.charts import draw_sparkline
from worker.training.report.story import tell_turns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.training.data.examples import Example
    from worker.training.saliency_record import Direction, SaliencyRecord, SaliencyToken

LEVELS = 20
_LARGEST_WEIGHT = 2.0
_MOST_TOKENS = 800
_ARROWS: Mapping[Direction, str] = {"raise": "▲ raise", "lower": "▼ lower", "none": "– ignore"}
_CONTEXTS = {"base": "plain prompt", "reference": "with reference", "judgment": "with judgment"}


@dataclass(frozen=True, slots=True)
class Likelihood:
    """P(token) in one context before and after training, as text; ``after`` None where it is the same."""

    context: str
    before: str
    after: str | None

    @property
    def text(self) -> str:
        """Both in one phrase."""
        return self.before if self.after is None else f"{self.before} → {self.after}"


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A token as it is drawn: visible text, CSS classes, and the figures behind it as text."""

    text: str
    classes: str
    weight: str
    kind: str
    direction: str
    likelihoods: tuple[Likelihood, ...]

    @property
    def tip(self) -> str:
        """All figures as lines of text, for readers without scripts."""
        lines = [f"weight {self.weight} · {self.direction} · {self.kind}"]
        return "\n".join([*lines, *(f"{one.context}  {one.text}" for one in self.likelihoods)])


@dataclass(frozen=True, slots=True)
class ShownExample:
    """A followed row as it is drawn; ``verdict`` is `right`, `wrong` or empty, ``trend`` an SVG path or empty."""

    line: int
    verdict: str
    turns: tuple[tuple[str, str], ...]
    reference: str
    judgment: str
    views: tuple[tuple[str, str], ...]
    tokens: tuple[ShownToken, ...]
    hidden_tokens: int
    loss: str
    probability: str
    weights_sum: str
    trend: str


def show_example(example: Example, records: Sequence[SaliencyRecord]) -> ShownExample:
    """Return how the row's ``records``, in the order of steps and at least one, are drawn."""
    first, last = records[0], records[-1]
    pairs = list(zip(first.tokens, last.tokens, strict=True))
    moved = any(before.weight != after.weight or before.class_ != after.class_ for before, after in pairs)
    views = [("weight", "Weights at the start" if moved else "Weights")]
    if moved:
        views.append(("later", "at the end"))
    views.append(("before", "Probability before"))
    if len(records) > 1:
        views += [("after", "after"), ("change", "change")]
    means = [mean_probability(record) for record in records]
    texts = example if isinstance(example, NLFTExample) else None
    contexts = [name for name in _CONTEXTS if any(getattr(token, name) is not None for token in first.tokens)]
    return ShownExample(
        line=first.example.file_line,
        verdict={True: "right", False: "wrong", None: ""}[first.example.correct],
        turns=tuple(tell_turns(example)),
        reference=(texts and texts.reference) or "",
        judgment=(texts and texts.judgment) or "",
        views=tuple(views),
        tokens=tuple(show_token(before, after, contexts) for before, after in pairs[:_MOST_TOKENS]),
        hidden_tokens=max(0, len(pairs) - _MOST_TOKENS),
        loss=_moved(f"{first.loss:.3g}", f"{last.loss:.3g}"),
        probability=_moved(say_probability(means[0]), say_probability(means[-1])),
        weights_sum=_moved(f"{first.weights_sum:.1f}", f"{last.weights_sum:.1f}"),
        trend=draw_sparkline(means, 96, 22) if len(means) > 2 else "",
    )


def show_token(before: SaliencyToken, after: SaliencyToken, contexts: Sequence[str]) -> ShownToken:
    """Return how a token is drawn, given its figures at the first and at the last recorded step.

    ``contexts`` are the fields of the probabilities that are told.
    """
    change = after.base - before.base
    classes = [
        _paint("w", before.weight / _LARGEST_WEIGHT, before.direction),
        _paint("v", after.weight / _LARGEST_WEIGHT, after.direction),
        _paint("b", before.base),
        _paint("a", after.base),
        _paint("c", abs(change), "raise" if change >= 0 else "lower"),
        f"k{before.class_[0]}",
        f"l{after.class_[0]}",
    ]
    if before.text.startswith("<|") or before.text in {"</s>", "<eos>", "<end_of_turn>"}:
        classes.append("special")
    return ShownToken(
        text=before.text.replace("\n", "↵\n") or "·",
        classes=" ".join(classes),
        weight=_moved(f"{before.weight:.3f}", f"{after.weight:.3f}"),
        kind=_moved(before.class_, after.class_),
        direction=_moved(_ARROWS[before.direction], _ARROWS[after.direction]),
        likelihoods=tuple(_likelihood(name, before, after) for name in contexts),
    )


def mean_probability(record: SaliencyRecord) -> float:
    """Return the geometric mean of the tokens' probabilities under the plain prompt."""
    logs = [math.log(max(token.base, 1e-30)) for token in record.tokens]
    return math.exp(sum(logs) / len(logs)) if logs else 0.0


def say_probability(value: float | None) -> str:
    """Return a probability as people write it."""
    if value is None:
        return "–"
    percent = 100 * value
    if 0 < percent < 0.01:
        return "< 0.01 %"
    if 99.99 < percent < 100:
        return "> 99.99 %"
    digits = 2 if percent < 0.995 or percent > 99 else 1 if percent < 9.95 else 0
    return f"{percent:.{digits}f} %"


def _likelihood(name: str, before: SaliencyToken, after: SaliencyToken) -> Likelihood:
    texts = [say_probability(getattr(token, name)) for token in (before, after)]
    return Likelihood(_CONTEXTS[name], texts[0], None if texts[0] == texts[1] else texts[1])


def _paint(view: str, share: float, direction: Direction | None = None) -> str:
    """Return the CSS classes of a token in one view: how strong its colour is, and which colour."""
    level = f"{view}{round(LEVELS * min(1.0, max(0.0, share)))}"
    return level if direction is None else f"{level} {view}-{direction}"


def _moved(before: str, after: str) -> str:
    return before if before == after else f"{before} → {after}"

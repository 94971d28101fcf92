"""Finds the calculations that a text writes down, such as ``48/2 = 24``, and computes them. Free of torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MARK = re.compile(r"<<[^<>\n]*>>")  # a calculation that GSM8K repeats for a calculator: 48/2 = <<48/2=24>>24
_TOKEN = re.compile(
    r"(?P<number>[$€£¥₹]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|[$€£¥₹]?\.\d+)(?P<percent>\s?%)?"
    r"|(?P<operator>\\times|\\div|\\cdot|[-+*/×÷·\u2212]|(?<=[\d\s)%])[xX](?=\s?[$€£¥₹]?[\d(]))"
    r"|(?P<open>\()|(?P<close>\))|(?P<equals>=)|(?P<word>[^\W\d_]+)|(?P<other>[^ \t\r])"
)
_OPERATORS = {"×": "*", "x": "*", "X": "*", "·": "*", "÷": "/", "\u2212": "-", "of": "*"}
_OPERATORS |= {"\\times": "*", "\\cdot": "*", "\\div": "/"}
_LONGEST_NUMBER = 30
_UNIT_WORDS = 2
_DEEPEST = 20


@dataclass(frozen=True, slots=True)
class Equation:
    """A calculation: its ``text``, what its left side comes to (None: nothing, over zero), and what it ``claims``."""

    text: str
    value: Fraction | None
    claims: Fraction
    tolerance: Fraction

    @property
    def holds(self) -> bool:
        """Whether the claim is the value, to the decimals that it is written with."""
        return self.value is not None and abs(self.value - self.claims) <= self.tolerance


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int

    @property
    def is_percent(self) -> bool:
        return self.text.endswith("%")

    @property
    def digits(self) -> str:
        return self.text.rstrip(" %").lstrip("$€£¥₹").replace(",", "")


def find_equations(text: str) -> Iterator[Equation]:
    """Yield the calculations of ``text`` in their order; ones with unknowns, powers or functions are passed over."""
    text = _MARK.sub("", text)
    tokens = [_token(found) for found in _TOKEN.finditer(text)]
    for place, token in enumerate(tokens):
        if token.kind != "equals":
            continue
        start = _start_of_left_side(tokens, place)
        if start is None:
            continue
        left, (right, end) = _parsable(tokens[start:place]), _right_side(tokens, place + 1)
        if not any(token.kind in ("operator", "word") for token in left) or not right:
            continue
        found = _equation(" ".join(text[tokens[start].start : tokens[end - 1].end].split()), left, right)
        if found is not None:
            yield found


def _token(found: re.Match[str]) -> _Token:
    kind = str(found.lastgroup) if found["percent"] is None else "number"
    if kind == "number" and len(found.group()) > _LONGEST_NUMBER:
        kind = "other"
    return _Token(kind, found.group(), found.start(), found.end())


def _start_of_left_side(tokens: Sequence[_Token], equals: int) -> int | None:
    """Return where the expression that ends before ``equals`` begins; None where there is none that can be computed."""
    place = equals
    while True:
        operand = _operand_before(tokens, place)
        if operand is None:
            return place if place < equals and _is_bullet(tokens, place) else None
        place = operand
        before = tokens[place - 1] if place else None
        if before is None or not _is_operator(tokens, place - 1):
            return None if before is not None and _clings(before, tokens[place]) else place
        if before.kind == "operator" and (place == 1 or tokens[place - 2].text in "\n(:"):
            # A sign where it touches its number, a list's bullet where it does not.
            return place - 1 if before.end == tokens[place].start and before.text in "-\u2212" else place
        place -= 1


def _is_bullet(tokens: Sequence[_Token], place: int) -> bool:
    return tokens[place].kind == "operator" and (place == 0 or tokens[place - 1].text == "\n")


def _clings(before: _Token, first: _Token) -> bool:
    """Return whether what stands before an expression belongs to it: ``x3``, ``2(``, ``2^3``."""
    return before.text == "^" or (before.end == first.start and before.kind in ("word", "number", "close"))


def _operand_before(tokens: Sequence[_Token], end: int) -> int | None:
    """Return where the operand begins that ends, with its unit, before ``end``."""
    place = end - 1
    for _ in range(_UNIT_WORDS):
        if place >= 0 and tokens[place].kind == "word" and not _is_operator(tokens, place):
            place -= 1
    if place < 0:
        return None
    if tokens[place].kind == "number":
        return place
    if tokens[place].kind != "close":
        return None
    depth = 0
    while place >= 0 and tokens[place].text != "\n":
        depth += {"close": 1, "open": -1}.get(tokens[place].kind, 0)
        if depth == 0:
            return place
        place -= 1
    return None


def _is_operator(tokens: Sequence[_Token], place: int) -> bool:
    """Return whether a token joins two operands; "of" does behind a number: 20% of 50, 1/2 of 10."""
    token = tokens[place]
    return token.kind == "operator" or (token.text == "of" and place > 0 and tokens[place - 1].kind == "number")


def _right_side(tokens: Sequence[_Token], start: int) -> tuple[list[_Token], int]:
    """Return the value, or the expression, that begins at ``start``, and where it ends."""
    place, end = start, start
    kept: list[_Token] = []
    while place < len(tokens):
        sign = tokens[place].text in "-\u2212" and place + 1 < len(tokens) and place == start
        number = place + 1 if sign else place
        if tokens[number].kind != "number":
            break
        kept += tokens[place : number + 1]
        place = end = number + 1
        for _ in range(_UNIT_WORDS):
            if place < len(tokens) and tokens[place].kind == "word" and not _is_operator(tokens, place):
                place += 1
        if place + 1 >= len(tokens) or not _is_operator(tokens, place) or tokens[place + 1].kind != "number":
            break
        kept.append(tokens[place])
        place += 1
    return kept, end


def _parsable(tokens: Sequence[_Token]) -> list[_Token]:
    """Return ``tokens`` without units."""
    return [token for token in tokens if token.kind != "word" or token.text == "of"]


def _equation(text: str, left: Sequence[_Token], right: Sequence[_Token]) -> Equation | None:
    decimals = len(right[-1].digits.partition(".")[2]) if len(right) <= 2 else 0
    tolerance = Fraction(1, 10**decimals) if decimals else Fraction(0)
    has_percent = any(token.is_percent for token in (*left, *right))
    readings: list[Equation] = []
    try:
        claims = _Parser(right, is_share=False).parse()
        if claims is None:
            return None
        # 20% is a fifth where it multiplies, and often just 20 where it is added or concluded.
        for is_share in (True, False) if has_percent else (True,):
            value = _Parser(left, is_share=is_share).parse()
            for scale in (1, 100) if right[-1].is_percent and is_share else (1,):
                readings.append(Equation(text, None if value is None else value * scale, claims, tolerance))
    except _UnparsableError:
        return None
    return next((reading for reading in readings if reading.holds), readings[0])


class _UnparsableError(Exception):
    """Tokens that are no expression."""


class _Parser:
    """Computes an expression of numbers, four operations and parentheses, exactly.

    Args:
        tokens: Of the expression.
        is_share: Whether 20% is 0.2 rather than 20.
    """

    def __init__(self, tokens: Sequence[_Token], *, is_share: bool) -> None:
        self._tokens = list(tokens)
        self._is_share = is_share
        self._place = 0
        self._depth = 0

    def parse(self) -> Fraction | None:
        """Return the value; None where something is divided by zero."""
        try:
            value = self._sum()
        except ZeroDivisionError:
            return None
        if self._place < len(self._tokens):
            raise _UnparsableError
        return value

    def _operator(self) -> str:
        if self._place >= len(self._tokens):
            return ""
        token = self._tokens[self._place]
        return _OPERATORS.get(token.text, token.text) if token.kind in ("operator", "word") else ""

    def _sum(self) -> Fraction:
        value = self._product()
        while (operator := self._operator()) in ("+", "-"):
            self._place += 1
            term = self._product()
            value = value + term if operator == "+" else value - term
        return value

    def _product(self) -> Fraction:
        value = self._operand()
        while (operator := self._operator()) in ("*", "/"):
            self._place += 1
            factor = self._operand()
            value = value * factor if operator == "*" else value / factor
        return value

    def _operand(self) -> Fraction:
        if self._operator() == "-":
            self._place += 1
            return -self._operand()
        if self._place >= len(self._tokens):
            raise _UnparsableError
        token = self._tokens[self._place]
        self._place += 1
        if token.kind == "number":
            return Fraction(token.digits) / (100 if token.is_percent and self._is_share else 1)
        if token.kind != "open" or self._depth == _DEEPEST:
            raise _UnparsableError
        self._depth += 1
        value = self._sum()
        self._depth -= 1
        if self._place >= len(self._tokens) or self._tokens[self._place].kind != "close":
            raise _UnparsableError
        self._place += 1
        return value

r"""Numbers as people and models write them, by value: ``$1,000.00``, ``1/2``, ``1 1/2``, ``50%``, ``\frac{3}{4}``."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

_LONGEST_NUMBER = 300  # longer ones are no answers, and Python refuses to convert them
_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_DIGITS = rf"{_WHOLE}(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    # A sign counts unless it stands between two operands, where it is an operator.
    r"(?P<sign>(?<![\w)%.])[-+\u2212])?(?:[$€£¥₹]\s?)?(?P<sign_inside>(?<=[$€£¥₹])[-\u2212])?"
    rf"(?:(?P<whole>{_WHOLE})\ (?P<above>\d+)/(?P<below>\d+)(?![.\d])"
    rf"|(?P<number>{_DIGITS})(?:[eE](?P<exponent>[-+]?\d{{1,2}})(?!\w))?(?:\s?/\s?(?P<divisor>{_DIGITS}))?)"
    r"(?P<percent>\s?(?:%|per\s?cent\b))?"
)
_LATEX_FRACTION = re.compile(r"(?P<before>\d?)\s{0,2}\\[dt]?frac\s?\{\s?(?P<above>\d+)\s?\}\s?\{\s?(?P<below>\d+)\s?\}")
_LATEX_NOISE = re.compile(r"\\[,!;: ]|\\(?:left|right)\b|\\(?:text|mathrm|mathbf)\s?(?=\{)")
_VULGAR_FRACTION = re.compile(r"(?P<before>\d?)\s?(?P<fraction>[\u00bc-\u00be\u2150-\u215e])")


@dataclass(frozen=True, slots=True)
class Number:
    """An exact ``value``, the percent sign left out of it, and whether there was one."""

    value: Fraction
    is_percent: bool = False

    def equals(self, other: "Number") -> bool:
        """Return whether both mean the same: 50% is 50, as a figure whose unit was left out, and it is 0.5."""
        if self.value == other.value:
            return True
        return self.is_percent != other.is_percent and self._share() == other._share()

    def _share(self) -> Fraction:
        return self.value / 100 if self.is_percent else self.value


def find_numbers(text: str) -> Iterator[Number]:
    """Yield the numbers of ``text`` in order, without fractions over zero and what is too long to be an answer."""
    for found in _NUMBER.finditer(write_plainly(text)):
        if len(found.group()) <= _LONGEST_NUMBER:
            yield from _values(found)


def has_other_than_number(text: str) -> bool:
    """Return whether ``text`` holds more than one number with its unit: algebra, a second number, a list."""
    rest, count = _NUMBER.subn("", write_plainly(text))
    return count != 1 or re.fullmatch(r"(?:[\s.,;:!?'\"{}$°]|\b[^\W\d_]{2,}\b)*", rest) is None


def write_plainly(text: str) -> str:
    """Return ``text`` with LaTeX and single-character fractions written out."""
    if "\\" in text:
        text = _LATEX_FRACTION.sub(_plain_fraction, text)
        text = _LATEX_NOISE.sub("", text).replace("{,}", ",").replace("\\%", "%").replace("\\$", "$")
    return _VULGAR_FRACTION.sub(_plain_vulgar_fraction, text)


def _plain_fraction(found: re.Match[str]) -> str:
    fraction = f"{found['above']}/{found['below']}"
    return f"{found['before']} {fraction}" if found["before"] else fraction


def _plain_vulgar_fraction(found: re.Match[str]) -> str:
    fraction = unicodedata.normalize("NFKC", found["fraction"]).replace("\u2044", "/")
    return f"{found['before']} {fraction}" if found["before"] else fraction


def _values(found: re.Match[str]) -> Iterator[Number]:
    sign_text = (found["sign"] or "") + (found["sign_inside"] or "")
    sign = -1 if "-" in sign_text or "\u2212" in sign_text else 1
    is_percent = found["percent"] is not None
    if found["whole"] is None:
        above, below = _exact(found["number"]), _exact(found["divisor"] or "1")
        if below:
            yield Number(sign * above * Fraction(10) ** int(found["exponent"] or 0) / below, is_percent)
        return
    whole, above, below = _exact(found["whole"]), _exact(found["above"]), _exact(found["below"])
    if above < below:
        yield Number(sign * (whole + above / below), is_percent)
        return
    yield Number(sign * whole)
    if below:
        yield Number(above / below, is_percent)


def _exact(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))

"""How close two texts are, in [0, 1], by published measures."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from rapidfuzz import fuzz
from rapidfuzz.distance import LCSseq

LONGEST_TEXT = 50_000

_LARGEST_NGRAM = 4
_WORD = re.compile(r"\w+")
_WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")

Tokens = Sequence[str]


class TextTooLongError(ValueError):
    """A text longer than ``LONGEST_TEXT`` characters."""


def measure_similarity(metric: str, given: str, wanted: str) -> float:
    """Return how close ``given`` is to ``wanted``: 1 where they agree, 0 where they share nothing.

    | metric | is |
    |---|---|
    | ``fuzzy_match`` | normalised insertions and deletions (rapidfuzz's ``ratio``) |
    | ``bleu`` | sentence BLEU (https://aclanthology.org/P02-1040) to 4-grams, exponential smoothing, effective order |
    | ``gleu`` | Google BLEU (https://arxiv.org/abs/1609.08144): the smaller of precision and recall, 1- to 4-grams |
    | ``rouge_1`` to ``rouge_5``, ``rouge_l`` | F1 of ROUGE (https://aclanthology.org/W04-1013), without stemming |

    Raises:
        TextTooLongError: One of the texts is.
    """
    if max(len(given), len(wanted)) > LONGEST_TEXT:
        raise TextTooLongError(f"texts of more than {LONGEST_TEXT:,} characters are not compared")
    return _METRICS[metric](given, wanted)


def _fuzzy_match(given: str, wanted: str) -> float:
    return fuzz.ratio(given, wanted) / 100


def _bleu(given: str, wanted: str) -> float:
    ours, theirs = _WORD_OR_MARK.findall(given), _WORD_OR_MARK.findall(wanted)
    logs, smoothing = [], 1.0
    for size in range(1, _LARGEST_NGRAM + 1):
        possible = len(ours) - size + 1
        if possible <= 0:
            break
        matches = _overlap(ours, theirs, size)
        if matches == 0:
            smoothing *= 2
        logs.append(math.log(matches / possible if matches else 1 / (smoothing * possible)))
    if not logs or _overlap(ours, theirs, 1) == 0:
        return 0.0
    brevity = min(0.0, 1 - len(theirs) / len(ours))
    return math.exp(brevity + math.fsum(logs) / len(logs))


def _gleu(given: str, wanted: str) -> float:
    ours, theirs = _WORD_OR_MARK.findall(given), _WORD_OR_MARK.findall(wanted)
    sizes = range(1, _LARGEST_NGRAM + 1)
    longest = max(sum(max(0, len(tokens) - size + 1) for size in sizes) for tokens in (ours, theirs))
    return sum(_overlap(ours, theirs, size) for size in sizes) / longest if longest else 0.0


def _rouge_n(size: int, given: str, wanted: str) -> float:
    ours, theirs = _words(given), _words(wanted)
    return _f1(_overlap(ours, theirs, size), len(ours) - size + 1, len(theirs) - size + 1)


def _rouge_l(given: str, wanted: str) -> float:
    ours, theirs = _words(given), _words(wanted)
    return _f1(LCSseq.similarity(ours, theirs), len(ours), len(theirs))


def _words(text: str) -> Tokens:
    return _WORD.findall(text.lower())


def _overlap(ours: Tokens, theirs: Tokens, size: int) -> int:
    """Return how many n-grams of ``size`` the two share, each as often as it is in both."""
    return (_ngrams(ours, size) & _ngrams(theirs, size)).total()


def _ngrams(tokens: Tokens, size: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(size)), strict=False))


def _f1(shared: int, ours: int, theirs: int) -> float:
    return 2 * shared / (ours + theirs) if shared else 0.0


_METRICS: Mapping[str, Callable[[str, str], float]] = MappingProxyType(
    {
        "fuzzy_match": _fuzzy_match,
        "bleu": _bleu,
        "gleu": _gleu,
        **{f"rouge_{size}": partial(_rouge_n, size) for size in range(1, 6)},
        "rouge_l": _rouge_l,
    }
)

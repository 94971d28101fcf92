import time

import pytest

from worker.training.graders.similarity import LONGEST_TEXT, TextTooLongError, measure_similarity

METRICS = ("bleu", "gleu", "rouge_1", "rouge_2", "rouge_3", "rouge_l")
# What sacrebleu 2.6 (effective order, given tokens), nltk 3.9 and rouge-score 0.1.2 say of the same tokens.
PUBLISHED = [
    ("the cat sat on the mat", "the cat is on the mat", (0.379917843, 0.5, 0.833333333, 0.6, 0.25, 0.833333333)),
    (
        "Tom has 3 apples and 4 pears. 3 + 4 = 7",
        "Tom has three apples and four pears, so 3 + 4 = 7 pieces.",
        (0.309437306, 0.379310345, 0.727272727, 0.4, 0.111111111, 0.727272727),
    ),
    ("a b c d e f g h", "a b c d e f g h", (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)),
    ("yes", "no", (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)),
    ("It is", "It is a fine day outside", (0.135335283, 0.166666667, 0.5, 0.333333333, 0.0, 0.5)),
    ("the the the the", "the cat", (0.159735776, 0.1, 0.333333333, 0.0, 0.0, 0.333333333)),
]


@pytest.mark.parametrize(("given", "wanted", "figures"), PUBLISHED)
def test_measures_agree_with_the_published_implementations(given: str, wanted: str, figures: tuple[float, ...]) -> None:
    measured = [measure_similarity(metric, given, wanted) for metric in METRICS]
    assert measured == pytest.approx(figures, abs=1e-8)


@pytest.mark.parametrize("metric", ["fuzzy_match", *METRICS, "rouge_4", "rouge_5"])
def test_equal_texts_score_one_and_disjoint_ones_nothing(metric: str) -> None:
    assert measure_similarity(metric, "one two three four five", "one two three four five") == pytest.approx(1.0)
    assert measure_similarity(metric, "aaa", "zzz") == 0
    assert measure_similarity(metric, "", "zzz") == 0


def test_fuzzy_match_counts_insertions_and_deletions() -> None:
    assert measure_similarity("fuzzy_match", "abcd", "abxd") == pytest.approx(1 - 2 / 8)


def test_words_of_any_script_are_words() -> None:
    assert measure_similarity("rouge_1", "кошка спит", "Кошка ест") == pytest.approx(0.5)


@pytest.mark.parametrize("metric", ["fuzzy_match", "bleu", "gleu", "rouge_5", "rouge_l"])
def test_the_longest_texts_take_seconds_and_longer_ones_are_refused(metric: str) -> None:
    text = "ab " * (LONGEST_TEXT // 3)
    started = time.monotonic()
    measure_similarity(metric, text, text[::-1])
    assert time.monotonic() - started < 5
    with pytest.raises(TextTooLongError, match="50,000 characters"):
        measure_similarity(metric, "a" * (LONGEST_TEXT + 1), "a")

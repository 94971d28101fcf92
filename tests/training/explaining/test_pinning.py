import pytest

from tests.training.builders import question
from worker.training.data.examples import ChatExample, Message, NLFTExample
from worker.training.data.reader import Row
from worker.training.errors import SpecError
from worker.training.explaining.pinning import choose_pinned
from worker.training.spec import SaliencySettings

RIGHT = NLFTExample(question("?"), response="1", reference="1", correct=True)
JUDGED = NLFTExample(question("?"), response="1", reference="2", judgment="no", correct=False)
UNJUDGED = NLFTExample(question("?"), response="1", reference="2", correct=False)
CHAT = ChatExample([*question("?"), Message("assistant", "1")])


def rows(*examples: NLFTExample | ChatExample) -> list[Row]:
    """Rows on every second line: blank lines are no rows."""
    return [Row(2 * index + 1, example) for index, example in enumerate(examples)]


def test_right_and_wrong_rows_are_spread_over_the_data() -> None:
    data = rows(*[RIGHT, JUDGED] * 10)
    assert choose_pinned(data, SaliencySettings(right=2, wrong=3), "nlft") == [3, 4, 11, 14, 17]


def test_judged_rows_come_first_among_the_wrong() -> None:
    data = rows(UNJUDGED, UNJUDGED, JUDGED, UNJUDGED, JUDGED)
    assert choose_pinned(data, SaliencySettings(wrong=2), "nlft") == [2, 4]
    assert len(choose_pinned(data, SaliencySettings(wrong=4), "nlft")) == 4


def test_fewer_rows_than_asked_for() -> None:
    assert choose_pinned(rows(RIGHT, JUDGED), SaliencySettings(), "nlft") == [0, 1]
    assert choose_pinned(rows(CHAT, CHAT), SaliencySettings(), "supervised") == [0, 1]
    assert choose_pinned(rows(RIGHT), SaliencySettings(right=0, wrong=0), "nlft") == []


def test_named_lines() -> None:
    data = rows(RIGHT, JUDGED, UNJUDGED)
    assert choose_pinned(data, SaliencySettings(lines=[5, 1, 5]), "nlft") == [0, 2]
    assert choose_pinned(data, SaliencySettings(lines=[]), "nlft") == []


def test_a_line_without_a_row_is_named() -> None:
    with pytest.raises(SpecError, match="no row on line 2") as caught:
        choose_pinned(rows(RIGHT, RIGHT), SaliencySettings(lines=[1, 2]), "nlft")
    assert caught.value.param == "method.nlft.saliency.lines"

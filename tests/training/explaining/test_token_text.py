import pytest

from tests.fixtures.tiny_models import build_tokenizer
from worker.training.explaining.token_text import split_text

TOKENIZER = build_tokenizer()


def split(text: str) -> list[str]:
    return split_text(TOKENIZER, TOKENIZER(text, add_special_tokens=False).input_ids)


@pytest.mark.parametrize("text", ["", "plain words", "a  b\n\n c ", "naïve 漢字 🙂🙂", "<|im_end|>", "é", "🙂"])
def test_pieces_join_to_the_text(text: str) -> None:
    assert "".join(split(text)) == text


def test_a_character_is_added_by_the_token_that_completes_it() -> None:
    assert split("🙂!") == ["", "", "", "🙂", "!"]


def test_bytes_that_mean_no_character_are_shown_as_such() -> None:
    broken = TOKENIZER("🙂", add_special_tokens=False).input_ids[:2]
    pieces = split_text(TOKENIZER, [*broken, *TOKENIZER("after", add_special_tokens=False).input_ids])
    assert "".join(pieces).endswith("after")
    assert "\ufffd" in "".join(pieces)
    assert split_text(TOKENIZER, broken) == ["", "\ufffd"]

"""The shape of an API key."""

import re

import pytest

from app.auth.key_format import generate_key, hash_secret, parse_key


def test_a_generated_key_has_the_documented_shape_and_parses_back() -> None:
    key = generate_key()
    assert re.fullmatch(r"nlft_[0-9A-Za-z]{8}_[0-9A-Za-z]{49}", key.text)
    assert parse_key(key.text) == key


def test_no_two_keys_are_alike() -> None:
    assert len({generate_key().text for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "text",
    ["", "nlft_", "sk-something", "nlft_abcdefgh_short", "nlft_" + "a" * 8 + "_" + "b" * 49, " nlft_x"],
)
def test_a_malformed_key_does_not_parse(text: str) -> None:
    assert parse_key(text) is None


def test_one_mistyped_character_is_noticed_by_the_checksum() -> None:
    text = generate_key().text
    for position in range(5, len(text)):
        wrong = text[:position] + ("x" if text[position] != "x" else "y") + text[position + 1 :]
        assert parse_key(wrong) is None


def test_the_hash_depends_on_secret_and_pepper() -> None:
    assert len({hash_secret("a", "p"), hash_secret("b", "p"), hash_secret("a", "q")}) == 3


def test_the_secret_is_not_in_the_printed_form() -> None:
    key = generate_key()
    assert key.secret not in repr(key)

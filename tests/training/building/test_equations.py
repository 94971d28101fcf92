from fractions import Fraction

import pytest

from worker.training.building.equations import find_equations


def read(text: str) -> list[tuple[str, Fraction | int | None, bool]]:
    return [(found.text, found.value, found.holds) for found in find_equations(text)]


@pytest.mark.parametrize(
    ("text", "found", "value"),
    [
        ("48/2 = <<48/2=24>>24 clips", "48/2 = 24", "24"),
        ("Weng earns 12/60 = $<<12/60=0.2>>0.2 per minute.", "12/60 = $0.2", "1/5"),
        ("0.2 x 50 = 10.", "0.2 x 50 = 10", "10"),
        ("5 apples and 3 + 4 = 7", "3 + 4 = 7", "7"),
        ("10 apples + 5 red apples = 15 apples", "10 apples + 5 red apples = 15", "15"),
        ("20% of 50 = 10", "20% of 50 = 10", "10"),
        ("1/2 of 10 = 5 eggs", "1/2 of 10 = 5", "5"),
        ("2 * (3 + 4) = 14", "2 * (3 + 4) = 14", "14"),
        ("(3 + 4) * 2 = 14", "(3 + 4) * 2 = 14", "14"),
        ("12 × 2 ÷ 3 \u2212 1 = 7", "12 × 2 ÷ 3 \u2212 1 = 7", "7"),
        ("12 \\times 2 = 24", "12 \\times 2 = 24", "24"),
        ("$1,000 - $250.50 = $749.50", "$1,000 - $250.50 = $749.50", "1499/2"),
        ("100 - 20% = 80", "100 - 20% = 80", "80"),
        ("10/50 = 20%", "10/50 = 20%", "20"),
        ("10/3 = 3.33", "10/3 = 3.33", "10/3"),
        ("- 3 + 4 = 7", "3 + 4 = 7", "7"),
        ("-3 + 4 = 1", "-3 + 4 = 1", "1"),
        ("2 + 3 = 5 - that is it", "2 + 3 = 5", "5"),
    ],
)
def test_a_calculation_is_found_and_computed(text: str, found: str, value: str) -> None:
    assert read(text) == [(found, Fraction(value), True)]


def test_chains_are_several_calculations() -> None:
    assert read("5*3 = 10+5 = 15") == [("5*3 = 10+5", 15, True), ("10+5 = 15", 15, True)]
    assert [holds for _, _, holds in read("3 + 4 = 7 * 2 = 15")] == [False, False]


@pytest.mark.parametrize(
    "text",
    [
        "x = 5",
        "3 = 3",
        "2(3+4) = 14",
        "2^3 + 1 = 9",
        "x3 + 1 = 9",
        "n * 3 + 1 = 10",
        "sqrt(9) + 1 = 4",
        "= 5",
        "5 =",
        "",
    ],
)
def test_what_cannot_be_computed_is_passed_over(text: str) -> None:
    assert read(text) == []


@pytest.mark.parametrize(("text", "value"), [("3 + 10 = 14", 13), ("6 / 0 = 6", None), ("10/3 = 3.5", Fraction(10, 3))])
def test_a_wrong_claim_does_not_hold(text: str, value: Fraction | None) -> None:
    assert read(text) == [(text, value, False)]


@pytest.mark.parametrize(
    "text", ["(" * 5000 + "1 = 1", "1 + " * 20_000 + "1 = 2", "9" * 5000 + " + 1 = 2", "= " * 20_000]
)
def test_hostile_text_ends_soon(text: str) -> None:
    read(text)

"""Makes wrong solutions from right ones: a slip in one equation, carried through to the result."""

import re
from random import Random

from examples.word_problems.generate import judge

_STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
_RESULT = re.compile(r"#### \d+")
_MOST_TRIES = 100


def corrupt(solution: str, rng: Random) -> tuple[str, str]:
    """Return a wrong version of ``solution`` and the judgment on it.

    One equation gets another operator, another operand or a miscounted result. Later equations compute with the
    wrong result; what stands between the equations is kept.

    Raises:
        ValueError: No slip leads to another result.
    """
    for _ in range(_MOST_TRIES):
        wrong = _slip(solution, rng)
        judgment = None if wrong is None else judge(wrong, solution)
        if wrong is not None and judgment is not None:
            return wrong, judgment
    message = f"no wrong version found of: {solution}"
    raise ValueError(message)


def _slip(solution: str, rng: Random) -> str | None:
    """Return ``solution`` with one slip; None where it leads to no natural number."""
    steps = list(_STEP.finditer(solution))
    at = rng.randrange(len(steps))
    kind = rng.choice(("operator", "operand", "result"))
    changed: dict[str, str] = {}
    pieces, cursor = [], 0
    for index, step in enumerate(steps):
        left, operator, right, result = step.groups()
        left, right = changed.get(left, left), changed.get(right, right)
        if index == at and kind == "operator":
            operator = rng.choice([other for other in "-+*/" if other != operator])
        if index == at and kind == "operand":
            left, right = _other_operand(left, right, rng)
        value = _compute(int(left), operator, int(right))
        if value is not None and index == at and kind == "result":
            value += rng.choice((-10, -3, -2, -1, 1, 2, 3, 10))
        if value is None or value < 0:
            return None
        if str(value) != result:
            changed[result] = str(value)
        pieces += [solution[cursor : step.start()], f"{left} {operator} {right} = {value}"]
        cursor = step.end()
        final = value
    return _RESULT.sub(f"#### {final}", "".join(pieces) + solution[cursor:])


def _other_operand(left: str, right: str, rng: Random) -> tuple[str, str]:
    """Return the operands with one of them misread."""
    if rng.random() < 0.5:
        return str(max(1, int(left) + rng.choice((-3, -2, -1, 1, 2, 3)))), right
    return left, str(max(1, int(right) + rng.choice((-3, -2, -1, 1, 2, 3))))


def _compute(left: int, operator: str, right: int) -> int | None:
    if operator == "/":
        return left // right if right and left % right == 0 else None
    return {"+": left + right, "-": left - right, "*": left * right}[operator]

"""Eight families of word problems. Each makes a question and its worked solution from a random generator.

Numbers are small on purpose: a model of 135 million parameters can learn these within minutes on a CPU.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

NAMES = (
    "Ada",
    "Ben",
    "Cara",
    "Dan",
    "Eva",
    "Finn",
    "Gina",
    "Hugo",
    "Ida",
    "Jon",
    "Kira",
    "Leo",
    "Mia",
    "Nils",
    "Olga",
    "Paul",
)
THINGS = (
    "apples",
    "shells",
    "stamps",
    "cards",
    "marbles",
    "pencils",
    "stickers",
    "coins",
    "buttons",
    "beads",
    "nuts",
    "pears",
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A question and its worked solution, which ends with ``#### `` and the result."""

    family: str
    question: str
    solution: str


Family = Callable[[Random], tuple[str, str]]


def packs(rng: Random) -> tuple[str, str]:
    """Some in hand, and packs bought: start + packs * size."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    start, count, size = rng.randint(2, 12), rng.randint(2, 5), rng.randint(2, 6)
    asked = rng.choice((f"How many {thing} does {name} have now?", f"How many {thing} is that in all?"))
    bought = count * size
    return (
        f"{name} has {start} {thing} and buys {count} packs of {size} {thing}. {asked}",
        f"The packs hold {count} * {size} = {bought} {thing}. "
        f"In all that is {start} + {bought} = {start + bought} {thing}.\n#### {start + bought}",
    )


def change(rng: Random) -> tuple[str, str]:
    """Money paid, and the change: paid - count * price."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    count, price = rng.randint(2, 6), rng.randint(2, 5)
    cost = count * price
    paid = cost + rng.randint(2, 10)
    asked = rng.choice(("How many dollars are left?", "How much change is there in dollars?"))
    return (
        f"{name} buys {count} {thing} at {price} dollars each and pays with {paid} dollars. {asked}",
        f"The {thing} cost {count} * {price} = {cost} dollars. "
        f"That leaves {paid} - {cost} = {paid - cost} dollars.\n#### {paid - cost}",
    )


def sharing(rng: Random) -> tuple[str, str]:
    """A pile shared equally, and some given away: total / children - given."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    children, share = rng.randint(2, 6), rng.randint(4, 9)
    given = rng.randint(2, share - 2)
    total = children * share
    return (
        f"{children} children share {total} {thing} equally. {name} is one of them and gives {given} away. "
        f"How many {thing} does {name} keep?",
        f"Each child gets {total} / {children} = {share} {thing}. "
        f"{name} keeps {share} - {given} = {share - given} {thing}.\n#### {share - given}",
    )


def wages(rng: Random) -> tuple[str, str]:
    """Hourly pay and a tip: hours * rate + tip."""
    name, work = rng.choice(NAMES), rng.choice(("a bakery", "a hotel", "a shop", "a garage", "a cafe"))
    hours, rate, tip = rng.randint(2, 6), rng.randint(2, 6), rng.randint(2, 12)
    pay = hours * rate
    return (
        f"{name} works {hours} hours in {work} for {rate} dollars an hour and gets a tip of {tip} dollars. "
        f"How many dollars does {name} earn?",
        f"The pay is {hours} * {rate} = {pay} dollars. "
        f"With the tip that is {pay} + {tip} = {pay + tip} dollars.\n#### {pay + tip}",
    )


def together(rng: Random) -> tuple[str, str]:
    """One has more than another, both counted: first + (first + more)."""
    name, other = rng.sample(NAMES, 2)
    thing = rng.choice(THINGS)
    first, more = rng.randint(2, 16), rng.randint(2, 10)
    second = first + more
    return (
        f"{name} has {first} {thing}. {other} has {more} more {thing} than {name}. "
        f"How many {thing} do they have together?",
        f"{other} has {first} + {more} = {second} {thing}. "
        f"Together they have {first} + {second} = {first + second} {thing}.\n#### {first + second}",
    )


def seats(rng: Random) -> tuple[str, str]:
    """Rows of seats, some taken: rows * seats - taken."""
    place = rng.choice(("hall", "bus", "cinema", "tent", "theatre", "train"))
    rows, width = rng.randint(3, 6), rng.randint(3, 6)
    total = rows * width
    taken = rng.randint(2, min(12, total - 2))
    return (
        f"A {place} has {rows} rows of {width} seats. {taken} seats are taken. How many seats are free?",
        f"The {place} has {rows} * {width} = {total} seats. "
        f"There are {total} - {taken} = {total - taken} free seats.\n#### {total - taken}",
    )


def saving(rng: Random) -> tuple[str, str]:
    """Money saved every week, and a purchase: weeks * amount - price."""
    name, wish = rng.choice(NAMES), rng.choice(("book", "ball", "kite", "lamp", "game", "scarf"))
    weeks, amount = rng.randint(3, 6), rng.randint(2, 6)
    saved = weeks * amount
    price = rng.randint(2, min(12, saved - 2))
    return (
        f"{name} saves {amount} dollars a week for {weeks} weeks and then buys a {wish} for {price} dollars. "
        f"How many dollars does {name} have left?",
        f"{name} saves {weeks} * {amount} = {saved} dollars. "
        f"After the {wish} {saved} - {price} = {saved - price} dollars are left.\n#### {saved - price}",
    )


def boxes(rng: Random) -> tuple[str, str]:
    """Two kinds of containers: boxes * size + bags * other size."""
    thing = rng.choice(THINGS)
    count, size, bags, held = (rng.randint(2, 5) for _ in range(4))
    first, second = count * size, bags * held
    return (
        f"There are {count} boxes with {size} {thing} each and {bags} bags with {held} {thing} each. "
        f"How many {thing} are there?",
        f"The boxes hold {count} * {size} = {first} {thing}. The bags hold {bags} * {held} = {second} {thing}. "
        f"In all there are {first} + {second} = {first + second} {thing}.\n#### {first + second}",
    )


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {family.__name__: family for family in (packs, change, sharing, wages, together, seats, saving, boxes)}
)


def draw_problems(seed: int, count: int, *, avoid: Collection[Problem] = ()) -> list[Problem]:
    """Return ``count`` problems, the families in turn, whose numbers differ from each other's and from ``avoid``'s."""
    rng = Random(seed)
    taken = {_numbers(problem) for problem in avoid}
    problems: list[Problem] = []
    while len(problems) < count:
        name = list(FAMILIES)[len(problems) % len(FAMILIES)]
        problem = Problem(name, *FAMILIES[name](rng))
        if _numbers(problem) not in taken:
            taken.add(_numbers(problem))
            problems.append(problem)
    return problems


def _numbers(problem: Problem) -> tuple[str, ...]:
    return (problem.family, *re.findall(r"\d+", problem.question))

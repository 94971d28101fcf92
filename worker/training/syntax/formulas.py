"""Arithmetic over named numbers, read into a tree and walked: no calls but the listed ones, no attributes, no code.

Operators: ``+ - * / // % **`` (also written ``^``), parentheses. Functions: ``min max abs floor ceil exp sqrt log``.
"""

import ast
import keyword
import math
import operator
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from types import MappingProxyType

_DEEPEST = 40

_OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = MappingProxyType(
    {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        ast.FloorDiv: operator.floordiv,
        ast.Mod: operator.mod,
        ast.Pow: math.pow,
    }
)
_SIGNS: Mapping[type[ast.unaryop], Callable[[float], float]] = MappingProxyType(
    {ast.UAdd: operator.pos, ast.USub: operator.neg}
)
_FUNCTIONS: Mapping[str, tuple[Callable[..., float], int | None]] = MappingProxyType(
    {
        "min": (min, None),
        "max": (max, None),
        "abs": (abs, 1),
        "floor": (math.floor, 1),
        "ceil": (math.ceil, 1),
        "exp": (math.exp, 1),
        "sqrt": (math.sqrt, 1),
        "log": (math.log, 1),
    }
)


class FormulaError(ValueError):
    """A formula that is not written well, or that has no finite value."""


def check_formula(formula: str, names: Collection[str]) -> None:
    """Refuse a formula that cannot be evaluated for values with these names.

    Raises:
        FormulaError: It is no arithmetic, is nested too deeply or uses another name, or a name cannot be written in it.
    """
    unusable = [name for name in names if not name.isidentifier() or keyword.iskeyword(name) or name in _FUNCTIONS]
    if unusable:
        raise FormulaError(f"'{unusable[0][:60]}' cannot stand in a formula; use letters, digits and underscores")
    unknown = sorted(_variables(_parse(formula)) - set(names))
    if unknown:
        raise FormulaError(f"the formula uses '{unknown[0][:60]}'; the graders are {', '.join(names)}")


def evaluate(formula: str, values: Mapping[str, float]) -> float:
    """Return the value of ``formula``, always finite.

    Raises:
        FormulaError: It is no arithmetic, a name has no value, or the result is no finite number.
    """
    try:
        value = float(_value(_parse(formula), values))
    except KeyError as error:
        raise FormulaError(f"there is no value named {error.args[0]}") from None
    except (ArithmeticError, ValueError) as error:
        raise FormulaError(f"the formula has no value here: {error}") from None
    if not math.isfinite(value):
        raise FormulaError("the formula has no finite value here")
    return value


@lru_cache(maxsize=256)
def _parse(formula: str) -> ast.expr:
    try:
        # A caret means power, and binds like one only when it is written as one.
        tree = ast.parse(formula.strip().replace("^", "**"), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise FormulaError("not an arithmetic expression such as 0.7 * correctness + 0.3 * style") from None
    _check(tree, 0)
    return tree


def _check(node: ast.AST, depth: int) -> None:
    """Refuse everything that ``_value`` does not know."""
    if depth > _DEEPEST:
        raise FormulaError(f"nested more than {_DEEPEST} deep")
    match node:
        case ast.Name():
            inner: list[ast.expr] = []
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            inner = []
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _SIGNS:
            inner = [operand]
        case ast.BinOp(left=left, op=between, right=right) if type(between) in _OPERATORS:
            inner = [left, right]
        case ast.Call(func=ast.Name(id=name), args=inner, keywords=[]) if name in _FUNCTIONS:
            _check_count(name, len(inner))
        case _:
            raise FormulaError(f"only numbers, graders' names, + - * / // % ^ and {', '.join(_FUNCTIONS)} are known")
    for part in inner:
        _check(part, depth + 1)


def _check_count(name: str, count: int) -> None:
    wanted = _FUNCTIONS[name][1]
    if wanted is None and count < 2:
        raise FormulaError(f"{name} takes two or more values")
    if wanted is not None and count != wanted:
        raise FormulaError(f"{name} takes one value")


def _value(node: ast.expr, values: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(op=sign, operand=operand):
            return _SIGNS[type(sign)](_value(operand, values))
        case ast.BinOp(left=left, op=between, right=right):
            return _OPERATORS[type(between)](_value(left, values), _value(right, values))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _FUNCTIONS[name][0](*(_value(argument, values) for argument in arguments))
    raise AssertionError(node)


def _variables(tree: ast.expr) -> frozenset[str]:
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called)

"""The source tree as the architecture tests see it."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("app", "worker", "migrations", "examples", "bench")
ALL_ROOTS = (*SOURCE_ROOTS, "tests")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(*roots: str) -> list[Path]:
    """Return every Python file below the given top-level folders, sorted."""
    return sorted(path for root in roots for path in (ROOT / root).rglob("*.py"))


def name_of(path: Path) -> str:
    """Return the path relative to the repository, for messages."""
    return str(path.relative_to(ROOT))


@cache
def parse(path: Path) -> ast.Module:
    """Return the syntax tree of one file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def functions(path: Path) -> Iterator[Function]:
    """Yield every function and method of one file, nested ones included."""
    for node in ast.walk(parse(path)):
        if isinstance(node, Function):
            yield node

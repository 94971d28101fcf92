"""Nothing but ``app.jobs.lifecycle`` writes a job's status."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[4]
WRITER = ROOT / "app" / "jobs" / "lifecycle.py"
JOB = "FineTuningJob"


def status_writes(tree: ast.Module) -> Iterator[int]:
    """Yield the lines that assign ``.status``, pass ``status=`` to a job or to ``values``, or update it by name."""
    updates_jobs = any(is_call(node, "update") and names_job(node) for node in ast.walk(tree))
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr="status", ctx=ast.Store()):
                yield node.lineno
            case ast.Call(keywords=keywords) if is_call(node, "values", JOB):
                yield from (node.lineno for keyword in keywords if keyword.arg == "status")
            case ast.Dict() if updates_jobs and "status" in literal_keys(node):
                yield node.lineno


def is_call(node: ast.AST, *names: str) -> bool:
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    return (function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")) in names


def names_job(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Name) and part.id == JOB for part in ast.walk(node))


def literal_keys(node: ast.Dict) -> set[object]:
    return {key.value for key in node.keys if isinstance(key, ast.Constant)}


def test_only_lifecycle_writes_the_status() -> None:
    sources = [path for folder in ("app", "worker") for path in (ROOT / folder).rglob("*.py") if path != WRITER]
    found = [
        f"{path.relative_to(ROOT)}:{line}" for path in sources for line in status_writes(ast.parse(path.read_text()))
    ]
    assert found == []


def test_the_search_finds_the_writer_itself() -> None:
    assert list(status_writes(ast.parse(WRITER.read_text())))

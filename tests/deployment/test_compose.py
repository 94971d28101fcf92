import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.core.settings import Settings
from app.main import create_app
from tests.deployment.files import ROOT, compose, instruction, stages

SERVICES: dict[str, Any] = compose()["services"]
OURS = ("migrate", "api", "worker")
SECRETS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "NLFT_API_KEY_PEPPER")


def variables_of_settings() -> set[str]:
    return {str(field.validation_alias or f"NLFT_{name.upper()}") for name, field in Settings.model_fields.items()}


def test_every_variable_of_ours_is_a_setting() -> None:
    files = ("docker-compose.yml", "Dockerfile", ".env.example", "Makefile", ".ci/run")
    named = {name for file in files for name in re.findall(r"\bNLFT_[A-Z_]+\b", (ROOT / file).read_text())}
    assert named
    assert named <= variables_of_settings()


@pytest.mark.parametrize("service", OURS)
def test_services_are_configured_by_environment_that_is_known(service: str) -> None:
    given = {name for name in SERVICES[service]["environment"] if not name.startswith("AWS_")}
    assert {"DATABASE_URL", "BROKER_URL", "STORAGE_URL", "NLFT_API_KEY_PEPPER"} <= given <= variables_of_settings()


def test_no_secret_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name in SECRETS:
        uses = re.findall(rf"\$\{{{name}([^}}]*)\}}", text)
        assert uses
        assert set(uses) == {":?set it in .env"}
    example = dict(line.split("=", 1) for line in (ROOT / ".env.example").read_text().splitlines() if "=" in line[:40])
    assert {name: example[name] for name in SECRETS} == dict.fromkeys(SECRETS, "")


def test_every_reference_to_the_env_file_is_in_its_example() -> None:
    referred = set(re.findall(r"\$\{([A-Z0-9_]+)", (ROOT / "docker-compose.yml").read_text()))
    example = set(re.findall(r"^([A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert referred == example


def test_everything_waits_for_what_it_needs_to_be_healthy() -> None:
    for name, service in SERVICES.items():
        for other, condition in service.get("depends_on", {}).items():
            expected = "service_healthy" if "healthcheck" in SERVICES[other] else "service_completed_successfully"
            assert condition["condition"] == expected, (name, other)
    assert set(SERVICES["api"]["depends_on"]) == set(SERVICES["worker"]["depends_on"]) == {"migrate", "bucket", "redis"}


def test_broker_never_evicts_and_worker_gets_its_gpu_and_models() -> None:
    broker = SERVICES["redis"]["command"]
    assert broker[broker.index("--maxmemory-policy") + 1] == "noeviction"
    worker = SERVICES["worker"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    mounted = [volume.split(":")[1] for volume in worker["volumes"]]
    assert worker["environment"]["NLFT_MODEL_CACHE"] in mounted
    grace = float(worker["stop_grace_period"].removesuffix("s"))
    assert grace > Settings.model_fields["stop_grace_seconds"].default


def test_named_volumes_are_declared_and_used() -> None:
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert used == set(compose()["volumes"])


@pytest.mark.parametrize("service", OURS)
def test_services_build_a_stage_that_exists_and_run_a_command_that_exists(service: str) -> None:
    assert SERVICES[service]["build"]["target"] in stages()
    assert_runs(SERVICES[service]["command"])


@pytest.mark.parametrize("stage", ["api", "worker"])
def test_images_run_a_command_that_exists(stage: str) -> None:
    (command,) = instruction(stage, "CMD")
    assert_runs(json.loads(command))


def test_health_checks_ask_for_routes_that_exist() -> None:
    checks = [" ".join(SERVICES["api"]["healthcheck"]["test"]), *instruction("api", "HEALTHCHECK")]
    paths = [path for check in checks for path in re.findall(r"http://127\.0\.0\.1:8000(/\w+)", check)]
    app = create_app(Settings(DATABASE_URL="postgresql://nowhere/nlft", STORAGE_URL="s3://a/b", api_key_pepper="x"))
    assert len(paths) == 2
    assert set(paths) <= set(app.openapi()["paths"])


def assert_runs(command: list[str]) -> None:
    """Check that a container's command names a program of ours that starts: ``nlft … --help``, or a module."""
    if command[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(f"{command[2]}.__main__"), command
        return
    program = Path(sys.executable).parent / command[0]
    known = [argument for argument in command[1:] if not argument.startswith("-")][:1]
    options = [argument for argument in command[1:] if argument.startswith("--")]
    result = subprocess.run([program, *known, "--help"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert all(option in result.stdout for option in options), result.stdout

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.cli.live import Live, live_service
from tests.fixtures.tiny_models import build_tiny_model

ROWS = [{"prompt": f"{left} + {right} =", "completion": f" {left + right}"} for left in range(3) for right in range(4)]
MODEL = "tiny-llama"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("service")
    with live_service(folder) as service:
        source = build_tiny_model(folder / "source")
        imported = service.json("models", "import", str(source), "--name", MODEL)
        assert imported["id"] == MODEL
        yield service


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_imported_model_is_listed(live: Live) -> None:
    (model,) = live.json("models", "list")
    assert model["id"] == MODEL
    assert Path(model["path"]).is_relative_to(live.state.parent / "models")
    assert "LlamaForCausalLM" in live.run("models", "list")


def test_import_of_nothing_says_so(live: Live) -> None:
    error = live.run("models", "import", "no-such-package", status=1)
    assert "Cannot import no-such-package" in error
    assert "Traceback" not in error


def test_file_is_uploaded_listed_and_deleted(live: Live, dataset: Path) -> None:
    file = live.json("files", "upload", str(dataset))
    assert (file["filename"], file["bytes"]) == (dataset.name, dataset.stat().st_size)
    assert file["id"] in [listed["id"] for listed in live.json("files", "list")]
    assert file["id"] in live.run("files", "delete", file["id"])
    assert file["id"] not in [listed["id"] for listed in live.json("files", "list")]


def test_bad_dataset_is_refused_with_its_line(live: Live, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n{not json\n")
    assert "line 2" in live.run("files", "upload", str(path), status=1)


def test_job_is_created_watched_and_its_adapter_downloaded(live: Live, dataset: Path, tmp_path: Path) -> None:
    create = ("jobs", "create", "--model", MODEL, "--training-file", str(dataset), "--method", "supervised")
    lines = live.run(*create, "-H", "n_epochs=1", "--suffix", "sums", "--seed", "3", "--watch", "--json").splitlines()
    events: list[dict[str, Any]] = [json.loads(line) for line in lines[:-1]]
    job = json.loads(lines[-1])
    assert (job["status"], job["seed"]) == ("succeeded", 3)
    assert {event["object"] for event in events} == {"fine_tuning.job.event"}
    assert job["id"] in live.run("jobs", "list")
    assert live.json("jobs", "get", job["id"])["fine_tuned_model"] == job["fine_tuned_model"]

    (adapter,) = [row for row in live.json("adapters", "list") if row["fine_tuning_job_id"] == job["id"]]
    target = tmp_path / "adapter"
    downloaded = live.json("adapters", "download", adapter["id"], "-o", str(target))
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(downloaded["files"])
    assert all((target / name).is_file() for name in downloaded["files"])
    assert "not an empty folder" in live.run("adapters", "download", adapter["id"], "-o", str(target), status=1)


def test_job_is_cancelled(live: Live, dataset: Path) -> None:
    create = ("jobs", "create", "--model", MODEL, "--training-file", str(dataset), "--method", "supervised")
    job = live.json(*create, "-H", "n_epochs=50", "-H", "batch_size=1")
    live.json("jobs", "cancel", job["id"])
    live.run("jobs", "watch", job["id"], status=1)
    assert live.json("jobs", "get", job["id"])["status"] == "cancelled"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--training-file", "nowhere.jsonl"], "There is no file nowhere.jsonl"),
        (["--training-file", "file-unknown"], "file-unknown"),
        (["--training-file", "file-unknown", "-H", "n_epochs"], "name=value"),
    ],
)
def test_faulty_job_is_refused_in_one_sentence(live: Live, arguments: list[str], complaint: str) -> None:
    error = live.run("jobs", "create", "--model", MODEL, *arguments, status=1)
    assert complaint in error.replace("\n", " ")
    assert "Traceback" not in error


def test_unknown_hyperparameter_is_named(live: Live, dataset: Path) -> None:
    create = ("jobs", "create", "--model", MODEL, "--training-file", str(dataset), "--method", "supervised")
    assert "n_epoch" in live.run(*create, "-H", "n_epoch=1", status=1)


def test_settings_of_the_building_stages_reach_the_job(live: Live, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    row = {"messages": [{"role": "user", "content": "What is 2 + 3?"}], "reference": "#### 5"}
    questions.write_text(json.dumps(row) + "\n")
    create = ("jobs", "create", "--model", MODEL, "--training-file", str(questions), "--method", "nlft")
    job = live.json(*create, "-R", "n=2", "--rationalization", "n=3", "-J", "type=self", "-M", "wrong_share=0.5")
    live.json("jobs", "cancel", job["id"])
    chosen = job["method"]["nlft"]
    assert chosen["rollout"]["n"] == 2
    assert chosen["rationalization"]["n"] == 3
    assert chosen["judge"]["type"] == "self"
    assert chosen["mixture"]["wrong_share"] == 0.5


def test_setting_of_a_stage_that_does_not_exist_is_named(live: Live, dataset: Path) -> None:
    create = ("jobs", "create", "--model", MODEL, "--training-file", str(dataset), "--method", "nlft")
    assert "rollout" in live.run(*create, "-R", "samples=2", status=1)
    assert "at most 1 of this server's devices" in live.run(*create, "--n-gpus", "2", status=1)


def test_project_and_key_are_made_used_and_revoked(live: Live) -> None:
    project = live.json("projects", "create", "second")
    assert project["id"] in live.run("projects", "list")
    key = live.json("keys", "create", "--project", project["id"], "--name", "ci", "--days", "3")
    with OpenAI(base_url=live.connection["base_url"], api_key=key["key"]) as client:
        assert [model.id for model in client.models.list()] == [MODEL]
        assert list(client.files.list()) == []
    (listed,) = live.json("keys", "list", "--project", project["id"])
    assert (listed["id"], listed["name"]) == (key["id"], "ci")
    assert key["key"] not in json.dumps(listed)
    assert live.json("keys", "revoke", key["id"], "--project", project["id"])["revoked"]
    assert live.json("keys", "list", "--project", project["id"]) == []
    assert "No such" in live.run("keys", "list", "--project", "proj_unknown", status=1)


def test_migrate_again_changes_nothing(live: Live) -> None:
    assert live.json("migrate") == live.json("migrate")


def test_without_a_service_every_kind_of_command_says_what_to_start(tmp_path: Path) -> None:
    absent = Live.__new__(Live)
    absent.state = tmp_path / "state"
    for command in (["jobs", "list"], ["models", "list"]):
        assert "nlft up" in absent.run(*command, status=1)

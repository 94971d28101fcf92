"""The whole path: the embedded service, a real worker and trainer, a tiny model, the stock client."""

import csv
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob
from peft import PeftModel
from transformers import AutoModelForCausalLM

from app.cli.archives import unpack
from tests.cli.live import Live, live_service
from tests.fixtures.tiny_models import TinyModel

MODEL = "tiny-llama"
TERMINAL = ("succeeded", "failed", "cancelled")
STEPS_PER_EPOCH = 4


def nlft_rows(count: int) -> bytes:
    rows = []
    for number in range(count):
        is_right = number % 2 == 0
        row = {
            "messages": [{"role": "user", "content": f"{number} plus 1?"}],
            "response": f"#### {number + 1 if is_right else number}",
            "reference": f"#### {number + 1}",
        }
        rows.append(row if is_right else {**row, "judgment": f"It should be {number + 1}."})
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def chat_rows(count: int) -> bytes:
    turns = ({"role": "user", "content": f"Say {number}"} for number in range(count))
    rows = ({"messages": [turn, {"role": "assistant", "content": f"word {turn['content']}"}]} for turn in turns)
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.fixture(scope="module")
def base_model(tiny_model: TinyModel) -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> Iterator[Live]:
    quick = {
        "NLFT_RENEW_SECONDS": "0.3",
        "NLFT_LEASE_SECONDS": "5",
        "NLFT_RETRY_BACKOFF_SECONDS": "0",
        "NLFT_WORKER_THREADS": "1",
    }
    with live_service(tmp_path_factory.mktemp("e2e"), **quick) as running:
        running.run("models", "import", str(base_model), "--name", MODEL)
        yield running


@pytest.fixture(scope="module")
def client(live: Live) -> OpenAI:
    return OpenAI(base_url=live.connection["base_url"], api_key=live.connection["api_key"])


def create(client: OpenAI, rows: bytes, method: dict[str, Any], validation: bytes | None = None) -> FineTuningJob:
    training = client.files.create(file=("train.jsonl", rows), purpose="fine-tune").id
    extra = (
        {"validation_file": client.files.create(file=("v.jsonl", validation), purpose="fine-tune").id}
        if validation
        else {}
    )
    return client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=training,
        seed=3,
        extra_body={"method": method},
        **extra,  # type: ignore[arg-type]
    )


def wait(
    client: OpenAI, job_id: str, until: Callable[[FineTuningJob], bool] = lambda job: job.status in TERMINAL
) -> FineTuningJob:
    deadline = time.monotonic() + 120
    while not until(job := client.fine_tuning.jobs.retrieve(job_id)):
        assert time.monotonic() < deadline, job
        time.sleep(0.1)
    return job


def nlft(epochs: int, **extra: Any) -> dict[str, Any]:
    hyperparameters = {"n_epochs": epochs, "batch_size": 4, "learning_rate": 1e-2}
    return {"type": "nlft", "nlft": {"hyperparameters": hyperparameters, **extra}}


def download(client: OpenAI, job: FineTuningJob, folder: Path) -> Path:
    archive = client.files.content(job.result_files[1]).content
    unpack(io.BytesIO(archive), folder)
    return folder


def test_nlft_job_yields_metrics_checkpoints_events_and_an_adapter_that_plain_peft_loads(
    live: Live, client: OpenAI, base_model: Path, tmp_path: Path
) -> None:
    settings = {"evaluation": {"max_new_tokens": 8}, "saliency": {"lines": [1, 2]}}
    job = wait(client, create(client, nlft_rows(16), nlft(2, **settings), validation=nlft_rows(4)).id)
    assert job.status == "succeeded", job.error
    assert job.fine_tuned_model
    assert job.fine_tuned_model in [model.id for model in client.models.list()]

    events = list(client.fine_tuning.jobs.list_events(job.id))
    steps = [event.data["step"] for event in events if event.type == "metrics" and "step" in event.data]  # type: ignore[index,operator]
    assert sorted(steps) == list(range(1, 2 * STEPS_PER_EPOCH + 1))
    assert {event.data["stage"] for event in events if isinstance(event.data, dict) and "stage" in event.data} == {
        "before",
        "after",
    }
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [2 * STEPS_PER_EPOCH, STEPS_PER_EPOCH]

    metrics = list(csv.DictReader(io.StringIO(client.files.content(job.result_files[0]).text)))
    assert [int(row["step"]) for row in metrics] == list(range(1, 2 * STEPS_PER_EPOCH + 1))
    folder = download(client, job, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    records = [json.loads(line) for line in (folder / "saliency.jsonl").read_text().splitlines()]
    followed = {(record["step"], record["example"]["file_line"]) for record in records}
    assert followed == {(step, line) for step in (0, STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH) for line in (1, 2)}
    assert job.id in (folder / "report.html").read_text()
    assert len((folder / "row_losses.csv").read_text().splitlines()) == 1 + 16
    (registered,) = live.json("models", "list")
    assert manifest["spec"]["base_model"]["digest"] == registered["digest"]

    base = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    ids = torch.arange(3, 13)[None]
    before = base(ids).logits
    adapted = PeftModel.from_pretrained(base, folder)
    assert not torch.allclose(adapted(ids).logits, before)


def test_supervised_job_on_chat_rows_succeeds(client: OpenAI) -> None:
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 4}}}
    job = wait(client, create(client, chat_rows(8), method).id)
    assert job.status == "succeeded", job.error
    assert job.trained_tokens


def test_row_that_only_the_tokenizer_can_refuse_fails_the_job_with_its_line(client: OpenAI) -> None:
    rows = nlft_rows(3).replace(b"2 plus 1?", b"<|im_end|> 2 plus 1?")
    job = wait(client, create(client, rows, nlft(1)).id)
    assert job.status == "failed"
    assert job.error
    assert (job.error.code, job.error.param) == ("invalid_training_file", "training_file")
    assert "line 3" in job.error.message
    assert "2 plus 1" not in job.error.message


def test_cancelled_job_stops_and_leaves_no_trainer(live: Live, client: OpenAI) -> None:
    job = create(client, nlft_rows(16), nlft(50))
    wait(client, job.id, lambda current: current.status == "running")
    client.fine_tuning.jobs.cancel(job.id)
    started = time.monotonic()
    assert wait(client, job.id).status == "cancelled"
    assert time.monotonic() - started < 45  # a child may still be importing torch on a busy machine
    assert trainers(live) == []


def test_killed_trainer_resumes_and_ends_in_the_same_bits(live: Live, client: OpenAI) -> None:
    method = nlft(30, adapter={"dropout": 0.1})
    undisturbed = create(client, nlft_rows(16), method)
    assert wait(client, undisturbed.id).status == "succeeded"
    disturbed = create(client, nlft_rows(16), method)
    wait(client, disturbed.id, lambda _: bool(client.fine_tuning.jobs.checkpoints.list(disturbed.id).data))
    for process in trainers(live):
        process.kill()
    assert wait(client, disturbed.id).status == "succeeded"
    messages = [event.message for event in client.fine_tuning.jobs.list_events(disturbed.id, limit=100)]
    assert any(message.startswith("Resumed after step") for message in messages)
    assert weights_digest(live, disturbed.id) == weights_digest(live, undisturbed.id)


def trainers(live: Live) -> list[psutil.Process]:
    """Return the trainers but the one that waits for a job."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if "worker.training run" in line and str(live.state) in line and "standby-" not in folder(process):
            found.append(process)
    return found


def folder(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return process.cwd()
    return ""


def weights_digest(live: Live, job_id: str) -> str:
    connection = live.connection
    response = httpx.get(
        f"{connection['base_url']}/fine_tuning/jobs/{job_id}/artifacts",
        headers={"Authorization": f"Bearer {connection['api_key']}"},
    )
    names = {item["name"]: item["sha256"] for item in response.json()["data"]}
    digest: str = names["adapter_model.safetensors"]
    return digest

"""From questions with reference answers to an adapter, over HTTP alone: every stage seen, nothing paid for twice."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.cli.live import Live, live_service
from tests.e2e.test_fine_tuning import MODEL, create, wait
from tests.fixtures.endpoints import KEY, FakeEndpoint, Reply
from tests.training.building.conftest import build_speaker

QUESTIONS = 6
SAMPLES = 2
SMALL = {"hyperparameters": {"n_epochs": 1, "batch_size": 4}, "rollout": {"n": SAMPLES, "max_new_tokens": 16}}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[FakeEndpoint]:
    fake = FakeEndpoint()
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, endpoint: FakeEndpoint) -> Iterator[Live]:
    root = tmp_path_factory.mktemp("building")
    settings = f'[judge]\nbase_url = "{endpoint.url}"\napi_key = "{KEY}"\nmodel = "m"\n'
    (root / "endpoints.toml").write_text(settings)
    quick = {
        "NLFT_RENEW_SECONDS": "0.3",
        "NLFT_RETRY_BACKOFF_SECONDS": "0",
        "NLFT_WORKER_THREADS": "1",
        "NLFT_ENDPOINTS_FILE": str(root / "endpoints.toml"),
    }
    with live_service(root, **quick) as running:
        counter = build_speaker(root / "counter", ["1", "2", "3", "<|im_end|>"])
        running.run("models", "import", str(counter), "--name", MODEL)
        yield running


@pytest.fixture(scope="module")
def client(live: Live) -> OpenAI:
    return OpenAI(base_url=live.connection["base_url"], api_key=live.connection["api_key"])


def raw_rows(topic: str) -> bytes:
    rows = (
        {
            "messages": [{"role": "user", "content": f"{number} {topic} plus 1?"}],
            "reference": f"It is {number + 1}. #### {number + 1}",
        }
        for number in range(QUESTIONS)
    )
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def nlft(**block: Any) -> dict[str, Any]:
    return {"type": "nlft", "nlft": {**SMALL, **block}}


def service_of(job: FineTuningJob) -> dict[str, Any]:
    found: dict[str, Any] = job.model_extra["service"]  # type: ignore[index]
    return found


def phases(client: OpenAI, job: FineTuningJob) -> list[str]:
    events = [event.data for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
    return [data["phase"] for data in reversed(events) if isinstance(data, dict) and "phase" in data]


def messages(client: OpenAI, job: FineTuningJob) -> str:
    return "\n".join(event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100))


def built_rows(client: OpenAI, job: FineTuningJob) -> list[dict[str, Any]]:
    text = client.files.content(service_of(job)["built_file"]).text
    return [json.loads(line) for line in text.splitlines()]


def test_questions_with_references_go_through_every_stage_to_an_adapter(live: Live, client: OpenAI) -> None:
    job = wait(client, create(client, raw_rows("apples"), nlft()).id)
    assert job.status == "succeeded", (job.error, messages(client, job))
    seen = phases(client, job)
    assert seen[:6] == ["preparing", "rollout", "grading", "rationalization", "regrading", "judging"]
    assert set(seen) >= {"scoring", "training", "saving"}

    rows = built_rows(client, job)
    assert 0 < len(rows) <= QUESTIONS * SAMPLES
    assert all({"messages", "response", "reference", "correct"} <= set(row) for row in rows)
    built = client.files.retrieve(service_of(job)["built_file"])
    assert (built.purpose, built.filename) == ("fine-tune", "dataset.jsonl")
    headers = {"Authorization": f"Bearer {live.connection['api_key']}"}
    artifacts = httpx.get(f"{live.connection['base_url']}/fine_tuning/jobs/{job.id}/artifacts", headers=headers)
    assert "dataset.jsonl" in [item["name"] for item in artifacts.json()["data"]]

    again = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=built.id,
        extra_body={"method": {"type": "nlft", "nlft": {"hyperparameters": SMALL["hyperparameters"]}}},
    )
    assert wait(client, again.id).status == "succeeded"


def test_a_judge_behind_an_endpoint_is_asked_once_for_two_jobs(client: OpenAI, endpoint: FakeEndpoint) -> None:
    endpoint.behaviour = lambda _: Reply(f"The response leaves out the plus 1. ({len(endpoint.asked)})")
    method = nlft(judge={"type": "endpoint", "model": "judge"})
    first = wait(client, create(client, raw_rows("pears"), method).id)
    assert first.status == "succeeded", (first.error, messages(client, first))
    asked = len(endpoint.asked)
    assert f"Asked endpoints {asked} question(s): {asked} answered." in messages(client, first), messages(client, first)
    judged = [row["judgment"] for row in built_rows(client, first) if "judgment" in row]
    assert judged
    assert all("leaves out the plus 1" in judgment for judgment in judged)

    second = wait(client, create(client, raw_rows("pears"), method).id)
    assert second.status == "succeeded"
    assert [question.text for question in endpoint.asked[asked:]] == [], messages(client, second)
    assert client.files.content(service_of(second)["built_file"]).content == (
        client.files.content(service_of(first)["built_file"]).content
    )
    assert KEY not in messages(client, first) + first.model_dump_json()


def test_a_judge_that_refuses_everything_fails_the_job_and_names_the_stage(
    client: OpenAI, endpoint: FakeEndpoint
) -> None:
    endpoint.script(Reply(status=401))
    job = wait(client, create(client, raw_rows("plums"), nlft(judge={"type": "endpoint", "model": "judge"})).id)
    assert job.status == "failed"
    assert job.error
    assert job.error.code == "judging_failed", job.error
    assert "Asked endpoints" in messages(client, job)


def scored(client: OpenAI, job: FineTuningJob) -> list[tuple[int, int]]:
    """Return, for each time that contexts were scored, how many scores had been kept and how many were made."""
    events = [event.data for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
    return [(data["recalled"], data["scored"]) for data in events if isinstance(data, dict) and "recalled" in data]


def test_a_second_job_on_the_same_rows_scores_no_context_again(client: OpenAI) -> None:
    rows = b"".join(
        json.dumps({**json.loads(row), "response": "1 2", "correct": True}).encode() + b"\n"
        for row in raw_rows("figs").splitlines()
    )
    chosen = {**SMALL["hyperparameters"], "scoring": "frozen"}
    method = {"type": "nlft", "nlft": {"hyperparameters": chosen}}
    first = wait(client, create(client, rows, method).id)
    assert first.status == "succeeded", (first.error, messages(client, first))
    ((recalled, made),) = scored(client, first)
    assert recalled == 0
    assert made >= QUESTIONS
    method = {"type": "nlft", "nlft": {"hyperparameters": {**chosen, "reference_threshold": 0.5}}}
    second = wait(client, create(client, rows, method).id)
    assert second.status == "succeeded"
    assert scored(client, second) == [(made, 0)]


def test_an_endpoint_that_nobody_set_up_is_refused_when_the_job_is_created(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        create(client, raw_rows("nuts"), nlft(judge={"type": "endpoint", "model": "nobody"}))
    assert caught.value.param == "method.nlft.judge.model"
    assert caught.value.code == "unknown_endpoint"

"""What a user of the stock ``openai`` package does, start to end; run once per version, client flavour and process.

Not a test module: ``test_sdk_versions`` starts it with ``PYTHONPATH`` naming the version and the server's address,
and two keys (of two projects) in the environment. It prints one JSON line of what it saw; an assertion ends it.
"""

import asyncio
import csv
import inspect
import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import openai

KEYS = ("SCENARIO_KEY", "SCENARIO_OTHER_KEY")
MODEL = os.environ["SCENARIO_MODEL"]
FLAVOURS = {"sync": openai.OpenAI, "async": openai.AsyncOpenAI}
NLFT_METHOD = {"type": "nlft", "nlft": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}}


def rows(count: int, tag: str) -> bytes:
    lines = (
        {
            "messages": [{"role": "user", "content": f"{tag}: what is {number} plus {number}?"}],
            "response": f"{number} + {number} = {2 * number}\n#### {2 * number}",
            "reference": f"#### {2 * number}",
        }
        for number in range(count)
    )
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def settle(result: Any) -> Any:
    """Return the value of a sync call, or await the value of an async one."""
    return await result if inspect.isawaitable(result) else result


async def collect(pager: Any) -> list[Any]:
    """Return everything that auto-paging yields."""
    if hasattr(pager, "__aiter__"):
        return [entry async for entry in pager]
    return list(pager)


async def refused(call: Callable[[], Any], error: type[openai.APIStatusError]) -> openai.APIStatusError:
    """Return the typed error that a call must end with."""
    caught: openai.APIStatusError | None = None
    try:
        await settle(call())
    except error as expected:
        caught = expected
    assert caught is not None, f"expected {error.__name__}"
    assert caught.request_id, "every error carries a request id"
    return caught


async def upload(client: Any, tag: str) -> Any:
    return await settle(client.files.create(file=(f"{tag}.jsonl", rows(12, tag)), purpose="fine-tune"))


async def create(client: Any, training_file: str, **fields: Any) -> Any:
    return await settle(
        client.fine_tuning.jobs.create(
            **{"model": MODEL, "training_file": training_file, "method": NLFT_METHOD, **fields}
        )
    )


async def wait_until(condition: Callable[[], Any]) -> Any:
    """Return the first true value of ``condition``; look for it for a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := await condition():
            return found
        await asyncio.sleep(0.1)
    raise AssertionError("it did not come true in a minute")


async def wait_until_terminal(client: Any, job_id: str) -> Any:
    async def terminal() -> Any:
        job = await settle(client.fine_tuning.jobs.retrieve(job_id))
        return job if job.status in {"succeeded", "failed", "cancelled"} else None

    return await wait_until(terminal)


async def check_job(client: Any, training_file: str) -> Any:
    created = await create(client, training_file, suffix="SDK run", seed=7, metadata={"team": "red", "run": "1"})
    assert created.object == "fine_tuning.job"
    assert created.status == "queued"
    assert created.id.startswith("ftjob-")
    assert created.seed == 7
    assert created.hyperparameters.n_epochs == 2
    assert isinstance(created.hyperparameters.batch_size, int)
    assert created.method.type == "nlft"
    assert created._request_id
    job = await wait_until_terminal(client, created.id)
    assert job.status == "succeeded"
    assert job.error is None
    assert job.fine_tuned_model.startswith(f"ft:{MODEL}:")
    assert job.trained_tokens > 0
    assert job.finished_at >= job.created_at
    assert len(job.result_files) == 2
    return job


async def check_lists(client: Any, job: Any) -> None:
    jobs = client.fine_tuning.jobs
    everything = await collect(jobs.list(limit=1))
    assert job.id in [listed.id for listed in everything]
    assert len({listed.id for listed in everything}) == len(everything)
    tagged = await collect(jobs.list(metadata={"team": "red", "run": "1"}))
    assert [listed.id for listed in tagged] == [job.id]
    assert await collect(jobs.list(metadata={"team": "red", "run": "2"})) == []
    events = await collect(jobs.list_events(job.id, limit=2))
    assert len(events) >= 5, "auto-paging must cross three pages"
    assert len({event.id for event in events}) == len(events)
    assert events[-1].message == f"Created fine-tuning job: {job.id}"
    assert {event.object for event in events} == {"fine_tuning.job.event"}
    assert any(event.type == "metrics" for event in events)
    checkpoints = await collect(jobs.checkpoints.list(job.id, limit=1))
    steps = [checkpoint.step_number for checkpoint in checkpoints]
    assert len(steps) >= 3, "auto-paging must cross three pages"
    assert steps == sorted(steps, reverse=True)
    assert checkpoints[0].metrics.train_loss is not None
    assert checkpoints[0].fine_tuned_model_checkpoint == f"{job.fine_tuned_model}:ckpt-step-{steps[0]}"


async def check_stream(client: Any, job: Any) -> None:
    kind = openai.AsyncStream if isinstance(client, openai.AsyncOpenAI) else openai.Stream
    event_type = type((await collect(client.fine_tuning.jobs.list_events(job.id)))[0])
    streamed = client.get(
        f"/fine_tuning/jobs/{job.id}/events",
        cast_to=event_type,
        stream=True,
        stream_cls=kind[event_type],
        options={"params": {"stream": "true"}},
    )
    told = await collect(await settle(streamed))
    assert [event.id for event in told[::-1]] == [
        event.id for event in await collect(client.fine_tuning.jobs.list_events(job.id))
    ]


async def check_results(client: Any, job: Any) -> None:
    metrics_id, adapter_id = job.result_files
    metrics = await settle(client.files.content(metrics_id))
    table = list(csv.DictReader(io.StringIO(metrics.content.decode())))
    assert {"step", "train_loss"} <= set(table[0])
    archive = await settle(client.files.content(adapter_id))
    with tarfile.open(fileobj=io.BytesIO(archive.content)) as tar:
        assert {"adapter_config.json", "adapter_model.safetensors"} <= set(tar.getnames())
    described = await settle(client.files.retrieve(adapter_id))
    assert described.purpose == "fine-tune-results"
    assert described.bytes == len(archive.content)


async def check_models_and_files(client: Any, job: Any, file: Any) -> None:
    names = [model.id for model in await collect(await settle(client.models.list()))]
    assert MODEL in names
    assert job.fine_tuned_model in names
    tuned = await settle(client.models.retrieve(job.fine_tuned_model))
    assert (tuned.id, tuned.object) == (job.fine_tuned_model, "model")
    deleted = await settle(client.models.delete(job.fine_tuned_model))
    assert deleted.deleted
    assert deleted.id == job.fine_tuned_model
    await refused(lambda: client.models.retrieve(job.fine_tuned_model), openai.NotFoundError)
    still_there = await settle(client.fine_tuning.jobs.retrieve(job.id))
    assert still_there.fine_tuned_model == job.fine_tuned_model
    files = await collect(client.files.list(purpose="fine-tune", limit=1))
    assert file.id in [listed.id for listed in files]
    assert (await settle(client.files.delete(file.id))).deleted
    await refused(lambda: client.files.retrieve(file.id), openai.NotFoundError)


async def check_errors(client: Any, stranger: Any, job: Any) -> None:
    jobs = client.fine_tuning.jobs
    typo = {"type": "nlft", "nlft": {"hyperparameters": {"n_epoch": 2}}}
    file = await upload(client, "errors")
    bad = await refused(lambda: jobs.create(model=MODEL, training_file=file.id, method=typo), openai.BadRequestError)
    assert bad.param == "method.nlft.hyperparameters.n_epoch"
    assert "n_epochs" in str(bad)
    unknown = await refused(
        lambda: jobs.create(model="no-such-model", training_file=file.id, method=NLFT_METHOD), openai.NotFoundError
    )
    assert (unknown.code, unknown.param) == ("model_not_found", "model")
    missing = await refused(lambda: jobs.create(model=MODEL, training_file="file-none"), openai.BadRequestError)
    assert missing.param == "training_file"
    intruder = client.with_options(api_key="sk-nobody")
    await refused(intruder.fine_tuning.jobs.list, openai.AuthenticationError)
    await refused(lambda: stranger.fine_tuning.jobs.retrieve(job.id), openai.NotFoundError)
    await refused(lambda: jobs.retrieve("ftjob-none"), openai.NotFoundError)
    await refused(lambda: jobs.cancel(job.id), openai.ConflictError)


async def check_graders(client: Any) -> None:
    graders = client.fine_tuning.alpha.graders
    same = {
        "type": "string_check",
        "name": "same",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.answer }}",
        "operation": "ilike",
    }
    close = {**same, "type": "text_similarity", "name": "close", "evaluation_metric": "rouge_l"}
    del close["operation"]
    both = {"type": "multi", "name": "both", "graders": {"a": same, "b": close}, "calculate_output": "(a + b) / 2"}
    found = await settle(graders.run(grader=both, model_sample="in Paris", item={"answer": "Paris"}))
    assert found.reward == (1 + 2 / 3) / 2
    assert found.sub_rewards == {"a": 1, "b": 2 / 3}
    assert (found.metadata.name, found.metadata.type) == ("both", "multi")
    assert found.metadata.scores == found.sub_rewards
    assert found.metadata.execution_time >= 0
    assert not found.metadata.errors.other_error
    assert not found.metadata.errors.api_model_grader_parse_error
    assert found.api_model_grader_token_usage_per_model == {}
    checked = await settle(graders.validate(grader=same))
    assert checked.grader.type == "string_check"
    assert checked.grader.to_dict() == same
    code = {"type": "python", "name": "code", "source": "def grade(sample, item): return 1"}
    refusal = await refused(lambda: graders.validate(grader=code), openai.BadRequestError)
    assert refusal.param == "grader"


async def check_retries(client: Any, training_file: str) -> None:
    """A create whose answer, then whose request, is held up for longer than the client waits makes one job each."""
    impatient = client.with_options(timeout=1.0, max_retries=2)
    for held in ("reply", "request"):
        tag = {"held": held}
        job = await create(impatient, training_file, metadata=tag, extra_headers={"x-test-hold": f"{held}/{held}"})
        await wait_until(partial(is_through, client, held))
        found = [listed.id for listed in await collect(client.fine_tuning.jobs.list(metadata=tag))]
        assert found == [job.id], f"{held}: {found}"
        assert (await wait_until_terminal(client, job.id)).status == "succeeded"


async def is_through(client: Any, held: str) -> bool:
    """Return whether the first request, held up until the retry was answered, has now been answered too."""
    state = await settle(client.get(f"/held/{held}", cast_to=dict[str, bool]))
    return bool(state["done"])


async def check_quota_and_cancel(stranger: Any) -> None:
    file = await upload(stranger, "queue")
    queued = [await create(stranger, file.id, metadata={"n": str(number)}) for number in range(3)]
    once = stranger.with_options(max_retries=0)
    full = await refused(lambda: create(once, file.id, metadata={"n": "full"}), openai.RateLimitError)
    assert full.code == "rate_limit_exceeded"
    for job in queued:
        cancelled = await settle(stranger.fine_tuning.jobs.cancel(job.id))
        assert cancelled.status == "cancelled"
    again = await refused(lambda: stranger.fine_tuning.jobs.cancel(queued[0].id), openai.ConflictError)
    assert again.response.headers["x-should-retry"] == "false"
    assert (await settle(stranger.files.delete(file.id))).deleted


async def main(flavour: str) -> None:
    base_url = os.environ["SCENARIO_BASE_URL"]
    client, stranger = (FLAVOURS[flavour](base_url=base_url, api_key=os.environ[key]) for key in KEYS)
    file = await upload(client, "training")
    assert (file.object, file.status, file.purpose) == ("file", "processed", "fine-tune")
    job = await check_job(client, file.id)
    await check_lists(client, job)
    await check_stream(client, job)
    await check_results(client, job)
    await check_errors(client, stranger, job)
    await check_graders(client)
    await check_retries(client, file.id)
    await check_models_and_files(client, job, file)
    await check_quota_and_cancel(stranger)
    sys.stdout.write(json.dumps({"openai": openai.__version__, "flavour": flavour}) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

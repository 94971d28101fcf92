"""A job's saliency over HTTP, stored as a worker does it."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from app.core.settings import Settings
from app.db.models import Blob, SaliencySnapshot
from app.db.session import SessionFactory, transaction
from app.jobs.leases import Lease, LeaseLostError
from app.storage import BlobStore
from app.storage.collection import collect
from tests.fixtures.api import Tenant
from tests.fixtures.fine_tuning import NLFT_ROW, add_base_model, add_file, claim_job, lines
from worker.context import WorkerContext
from worker.snapshots import store_snapshot
from worker.training.events import SaliencyEvent
from worker.training.saliency_record import ExampleRef, SaliencyRecord, SaliencyToken


@pytest.fixture
def job(api_client: TestClient, session_factory: SessionFactory, store: BlobStore, tenant: Tenant) -> str:
    with transaction(session_factory) as session:
        model = add_base_model(session).id
    file_id = add_file(session_factory, store, tenant.project_id, lines(NLFT_ROW, 4))
    body = {"model": model, "training_file": file_id, "method": {"type": "nlft"}}
    return str(api_client.post("/v1/fine_tuning/jobs", json=body).json()["id"])


@pytest.fixture
def lease(session_factory: SessionFactory, job: str) -> Lease:
    return claim_job(session_factory, job)


def record(step: int, line: int) -> SaliencyRecord:
    token = SaliencyToken(" 72", 216, 0.1, None, 0.96, None, 1.2, "salient", "raise")
    return SaliencyRecord(ExampleRef(line, correct=True), step, 0.5, 1.2, [token])


class Depot:
    """Stores snapshots for one lease, the way the reporter does."""

    def __init__(self, settings: Settings, lease: Lease, folder: Path) -> None:
        self._context = WorkerContext.from_settings(settings)
        self._lease = lease
        self.folder = folder
        (folder / "saliency").mkdir()

    def put(self, step: int, *lines_in_file: int, name: str | None = None, **changes: Any) -> None:
        path = f"saliency/step-{step:06d}.jsonl"
        content = [msgspec.json.encode(record(step, line)) for line in lines_in_file]
        (self.folder / path).write_bytes(changes.get("content", b"".join(line + b"\n" for line in content)))
        event = SaliencyEvent(step=step, path=name or path, examples=len(lines_in_file))
        store_snapshot(self._context, self._lease, self.folder, event, give_up=lambda: True)

    def close(self) -> None:
        self._context.close()


@pytest.fixture
def depot(settings: Settings, lease: Lease, tmp_path: Path) -> Any:
    built = Depot(settings, lease, tmp_path)
    yield built
    built.close()


def page(client: TestClient, job: str, query: str = "") -> dict[str, Any]:
    answer = client.get(f"/v1/fine_tuning/jobs/{job}/saliency?{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def places(found: dict[str, Any]) -> list[tuple[int, int]]:
    return [(entry["step"], entry["example"]["file_line"]) for entry in found["data"]]


def test_a_job_without_snapshots_has_an_empty_list(api_client: TestClient, job: str) -> None:
    assert page(api_client, job) == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False
    }  # fmt: skip


def test_records_come_by_step_and_pinning_and_in_pages(api_client: TestClient, job: str, depot: Depot) -> None:
    for step in (20, 0, 10):
        depot.put(step, 7, 3, 5)
    expected = [(step, line) for step in (0, 10, 20) for line in (7, 3, 5)]
    assert places(page(api_client, job)) == expected
    assert places(page(api_client, job, "step=10")) == expected[3:6]

    seen: list[tuple[int, int]] = []
    query = "limit=2"
    while True:
        found = page(api_client, job, query)
        seen += places(found)
        if not found["has_more"]:
            break
        query = f"limit=2&after={found['last_id']}"
    assert seen == expected


def test_a_record_is_what_the_trainer_wrote_to_the_last_digit(api_client: TestClient, job: str, depot: Depot) -> None:
    depot.put(0, 7)
    (shown,) = page(api_client, job)["data"]
    assert shown.pop("object") == "fine_tuning.job.saliency"
    assert shown.pop("id") == "saliency-0-1"
    assert shown == json.loads(msgspec.json.encode(record(0, 7)))


def test_a_later_attempt_replaces_a_step(api_client: TestClient, job: str, depot: Depot) -> None:
    depot.put(10, 1, 2)
    depot.put(10, 4)
    assert places(page(api_client, job)) == [(10, 4)]


def test_the_bytes_of_a_snapshot_are_kept_by_the_collector(
    depot: Depot, session_factory: SessionFactory, store: BlobStore
) -> None:
    depot.put(0, 1)
    while collect(session_factory, store, -1.0):
        pass
    with session_factory() as session:
        (sha256,) = session.scalars(select(SaliencySnapshot.sha256)).all()
        assert session.get(Blob, sha256) is not None
    assert store.size(sha256) > 0


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": "../secret.jsonl"}, "outside"),
        ({"name": "saliency"}, "outside"),
        ({"content": b"{}\n"}, "no saliency record"),
        ({"content": msgspec.json.encode(record(11, 1)) + b"\n"}, "another step"),
    ],
)
def test_what_is_no_saliency_is_not_stored(
    api_client: TestClient, job: str, depot: Depot, changes: dict[str, Any], complaint: str
) -> None:
    (depot.folder.parent / "secret.jsonl").write_bytes(msgspec.json.encode(record(10, 1)))
    with pytest.raises(ValueError, match=complaint):
        depot.put(10, 1, **changes)
    assert page(api_client, job)["data"] == []


def test_a_link_is_not_followed(depot: Depot, tmp_path: Path) -> None:
    (tmp_path / "saliency" / "link.jsonl").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match="outside"):
        depot.put(1, 1, name="saliency/link.jsonl")


def test_an_attempt_that_lost_its_job_leaves_no_trace(
    api_client: TestClient, job: str, settings: Settings, lease: Lease, tmp_path: Path
) -> None:
    depot = Depot(settings, Lease(lease.job_id, lease.attempt + 1, lease.token), tmp_path)
    try:
        with pytest.raises(LeaseLostError):
            depot.put(0, 1)
    finally:
        depot.close()
    assert page(api_client, job)["data"] == []


def test_foreign_jobs_are_not_found_and_a_wrong_place_is_named(
    api_client: TestClient, other_client: TestClient, job: str
) -> None:
    assert other_client.get(f"/v1/fine_tuning/jobs/{job}/saliency").status_code == 404
    answer = api_client.get(f"/v1/fine_tuning/jobs/{job}/saliency?after=nonsense")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "after")

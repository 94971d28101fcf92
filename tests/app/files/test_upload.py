"""Uploading files over HTTP."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.core.settings import Settings
from app.db.models import Blob, File
from app.storage import BlobStore
from tests.app.asgi import call, chunk, status_of
from tests.fixtures.api import Tenant

ROWS = b"".join(
    json.dumps({"messages": [{"role": "user", "content": str(n)}, {"role": "assistant", "content": "yes"}]}).encode()
    + b"\n"
    for n in range(3)
)
FINE_TUNE = {"purpose": "fine-tune"}


def upload(client: TestClient, content: bytes = ROWS, name: str = "rows.jsonl", **fields: str) -> Any:
    return client.post("/v1/files", files={"file": (name, content)}, data={**FINE_TUNE, **fields})


def lifetime(**parts: str) -> dict[str, str]:
    return {**FINE_TUNE, **{f"expires_after[{name}]": value for name, value in parts.items()}}


def stored(session: Session, settings: Settings) -> tuple[int, int, list[Path]]:
    """Return how many files, blob rows and files on disk there are."""
    session.rollback()
    on_disk = [path for path in Path(settings.storage_url.removeprefix("file://")).rglob("*") if path.is_file()]
    files, blobs = (session.scalar(select(func.count()).select_from(table)) for table in (File, Blob))
    return files or 0, blobs or 0, on_disk


def test_an_upload_answers_with_the_file_object(api_client: TestClient, store: BlobStore) -> None:
    answer = upload(api_client)
    assert answer.status_code == 200
    file = answer.json()
    assert file["id"].startswith("file-")
    assert {name: file[name] for name in ("object", "bytes", "filename", "purpose", "status", "expires_at")} == {
        "object": "file",
        "bytes": len(ROWS),
        "filename": "rows.jsonl",
        "purpose": "fine-tune",
        "status": "processed",
        "expires_at": None,
    }
    assert file["report"]["format"] == "chat"
    assert file["report"]["rows"] == 3


def test_a_bad_file_is_refused_with_every_bad_line_and_leaves_nothing(
    api_client: TestClient, session: Session, settings: Settings
) -> None:
    secret = "confidential content"
    bad = ROWS + b'{"messages": []}\n' + json.dumps({"messages": secret}).encode() + b"\n" + b"{broken\n"
    answer = upload(api_client, bad)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["code"] == "invalid_training_file"
    assert error["param"].startswith("line 4")
    assert [problem["line"] for problem in error["problems"]] == [4, 5, 6]
    assert all(set(problem) == {"line", "path", "code", "reason"} for problem in error["problems"])
    assert error["total_problems"] == 3
    assert "line 4" in error["message"]
    assert secret not in answer.text
    assert stored(session, settings) == (0, 0, [])


def test_many_bad_lines_are_capped_and_counted(api_client: TestClient) -> None:
    error = upload(api_client, b"{}\n" * 250).json()["error"]
    assert len(error["problems"]) == 100
    assert error["total_problems"] == 250
    assert "247 more" in error["message"]


def test_the_sdk_tolerates_the_extra_members_of_the_error(api_client: TestClient, tenant: Tenant) -> None:
    client = openai.OpenAI(base_url="http://testserver/v1", api_key=tenant.key, http_client=api_client, max_retries=0)
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=("rows.jsonl", b"{}\n"), purpose="fine-tune")
    assert caught.value.code == "invalid_training_file"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["total_problems"] == 1


def test_the_sdk_uploads_waits_lists_downloads_and_deletes(api_client: TestClient, tenant: Tenant) -> None:
    client = openai.OpenAI(base_url="http://testserver/v1", api_key=tenant.key, http_client=api_client, max_retries=0)
    lifetime = {"anchor": "created_at", "seconds": 3600}
    made = client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune", expires_after=lifetime)  # type: ignore[arg-type]  # a plain dict is what users write
    assert made.expires_at == made.created_at + 3600
    assert client.files.wait_for_processing(made.id).status == "processed"
    assert client.files.retrieve(made.id).filename == "rows.jsonl"
    assert [file.id for file in client.files.list(purpose="fine-tune")] == [made.id]
    assert client.files.content(made.id).read() == ROWS
    assert client.files.delete(made.id).deleted


@pytest.mark.parametrize("purpose", ["assistants", "batch", "vision", "user_data", "evals"])
def test_other_purposes_are_stored_as_they_are(api_client: TestClient, purpose: str) -> None:
    answer = upload(api_client, b"\x00\xffno rows at all", purpose=purpose)
    assert answer.status_code == 200
    assert answer.json()["report"] is None


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "purpose", "missing_required_parameter"),
        ({"purpose": "finetune"}, "purpose", "invalid_value"),
        ({"purpose": "fine-tune-results"}, "purpose", "invalid_value"),
        ({**FINE_TUNE, "porpose": "x"}, "porpose", "unknown_parameter"),
        (lifetime(anchor="created_at"), "expires_after.seconds", "missing_required_parameter"),
        (lifetime(anchor="now", seconds="3600"), "expires_after.anchor", "invalid_value"),
        (lifetime(anchor="created_at", seconds="60"), "expires_after.seconds", "invalid_value"),
        ({**FINE_TUNE, "expires_after": "soon"}, "expires_after", "invalid_value"),
    ],
)
def test_a_wrong_field_is_named(api_client: TestClient, fields: dict[str, str], param: str, code: str) -> None:
    answer = api_client.post("/v1/files", files={"file": ("a.jsonl", ROWS)}, data=fields)
    assert answer.status_code == 400
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)


def test_a_misspelled_field_comes_with_the_nearest_name(api_client: TestClient) -> None:
    answer = api_client.post(
        "/v1/files", files={"file": ("a", b"x")}, data={"purpose": "user_data", "expires_aftr": "1"}
    )
    assert "Did you mean 'expires_after'?" in answer.json()["error"]["message"]


def test_an_empty_file_is_refused(api_client: TestClient) -> None:
    answer = upload(api_client, b"", purpose="user_data")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "empty_file")


@pytest.mark.parametrize("purpose", ["fine-tune", "user_data"])
def test_the_purpose_may_follow_the_file(api_client: TestClient, purpose: str) -> None:
    body = (
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="f.jsonl"\r\n\r\n{}\r\n'
        b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\n' + purpose.encode() + b"\r\n--b--\r\n"
    )
    answer = api_client.post("/v1/files", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == (400 if purpose == "fine-tune" else 200)


def test_equal_uploads_are_two_files_and_one_blob(api_client: TestClient, session: Session, settings: Settings) -> None:
    first, second = upload(api_client).json(), upload(api_client).json()
    assert first["id"] != second["id"]
    files, blobs, on_disk = stored(session, settings)
    assert (files, blobs, len(on_disk)) == (2, 1, 1)


def test_a_large_upload_in_many_batches_arrives_whole(api_client: TestClient) -> None:
    content = bytes(range(256)) * 4096 * 5 + b"tail"
    file = upload(api_client, content, purpose="user_data").json()
    assert file["bytes"] == len(content)
    assert api_client.get(f"/v1/files/{file['id']}/content").content == content


@pytest.mark.parametrize(
    ("sent_name", "kept_name"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\rows.jsonl", "rows.jsonl"),
        ("/absolute/rows.jsonl", "rows.jsonl"),
        ("trainingsdaten-äöü-😀.jsonl", "trainingsdaten-äöü-😀.jsonl"),
        ("x" * 300, "x" * 255),
    ],
)
def test_a_filename_is_kept_without_its_folders(api_client: TestClient, sent_name: str, kept_name: str) -> None:
    assert upload(api_client, name=sent_name).json()["filename"] == kept_name


def test_an_aborted_upload_leaves_nothing(
    api_app: FastAPI, tenant: Tenant, session: Session, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    head = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    parts = [chunk(head), chunk(b"x" * (3 << 20)), {"type": "http.disconnect"}]
    kind = "multipart/form-data; boundary=b"
    sent = call(api_app, tenant, "/v1/files", parts, content_type=kind, content_length=str(9 << 20))
    assert sent == []
    assert stored(session, settings) == (0, 0, [])
    written = capsys.readouterr().err
    assert '"status":499' in written
    assert "unhandled" not in written


def test_a_body_cut_short_by_its_own_length_is_400_and_leaves_nothing(
    api_app: FastAPI, tenant: Tenant, session: Session, settings: Settings
) -> None:
    head = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    kind = "multipart/form-data; boundary=b"
    parts = [chunk(head + b"x" * 100, more=False)]
    sent = call(api_app, tenant, "/v1/files", parts, content_type=kind, content_length="171")
    assert status_of(sent) == 400
    assert stored(session, settings) == (0, 0, [])


def test_the_body_is_read_to_its_end_before_a_bad_form_is_refused(api_app: FastAPI, tenant: Tenant) -> None:
    remaining = iter([chunk(b"not multipart" * 200_000), chunk(b"x" * (2 << 20)), chunk(b"end", more=False)])
    kind = "multipart/form-data; boundary=b"
    sent = call(api_app, tenant, "/v1/files", remaining, content_type=kind, transfer_encoding="chunked")
    assert status_of(sent) == 400
    assert list(remaining) == []

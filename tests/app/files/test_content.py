"""Downloading: ranges, conditions, HEAD, and a filename that is safe in a header."""

import hashlib

import pytest
from starlette.testclient import TestClient

from app.storage.responses import content_disposition

DATA = b"0123456789abcdefghij"
TAG = f'"{hashlib.sha256(DATA).hexdigest()}"'


@pytest.fixture
def content(api_client: TestClient) -> str:
    form = {"files": {"file": ("notes.txt", DATA)}, "data": {"purpose": "user_data"}}
    return f"/v1/files/{api_client.post('/v1/files', **form).json()['id']}/content"  # type: ignore[arg-type]  # a plain dict


def test_the_whole_content_comes_with_its_digest_as_an_attachment(api_client: TestClient, content: str) -> None:
    answer = api_client.get(content)
    assert answer.content == DATA
    assert answer.headers["etag"] == TAG
    assert answer.headers["content-length"] == str(len(DATA))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-disposition"] == 'attachment; filename="notes.txt"'
    assert answer.headers["cache-control"] == "private, immutable"
    assert answer.headers["content-type"] == "application/octet-stream"


def test_head_has_the_headers_and_no_body(api_client: TestClient, content: str) -> None:
    answer = api_client.head(content)
    assert answer.content == b""
    assert answer.headers["content-length"] == str(len(DATA))
    assert answer.headers["etag"] == TAG
    assert api_client.head(content, headers={"range": "bytes=0-3"}).headers["content-length"] == "4"


@pytest.mark.parametrize(
    ("wanted", "expected", "place"),
    [
        ("bytes=0-0", b"0", "0-0/20"),
        ("bytes=5-9", b"56789", "5-9/20"),
        ("bytes=15-", b"fghij", "15-19/20"),
        ("bytes=-3", b"hij", "17-19/20"),
        ("bytes=-100", DATA, "0-19/20"),
        ("bytes=18-1000", b"ij", "18-19/20"),
    ],
)
def test_a_range_is_served(api_client: TestClient, content: str, wanted: str, expected: bytes, place: str) -> None:
    answer = api_client.get(content, headers={"range": wanted})
    assert answer.status_code == 206
    assert answer.content == expected
    assert answer.headers["content-range"] == f"bytes {place}"
    assert answer.headers["content-length"] == str(len(expected))


@pytest.mark.parametrize("wanted", ["bytes=20-", "bytes=500-600", "bytes=-0"])
def test_a_range_outside_is_416_and_tells_the_size(api_client: TestClient, content: str, wanted: str) -> None:
    answer = api_client.get(content, headers={"range": wanted})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */20"
    assert answer.json()["error"]["code"] == "range_not_satisfiable"


@pytest.mark.parametrize("wanted", ["bytes=-", "bytes=9-5", "bytes=a-b", "lines=1-2", "bytes=0-1,4-5", "0-3"])
def test_a_range_that_is_malformed_or_manifold_gets_everything(
    api_client: TestClient, content: str, wanted: str
) -> None:
    answer = api_client.get(content, headers={"range": wanted})
    assert answer.status_code == 200
    assert answer.content == DATA


@pytest.mark.parametrize("condition", [TAG, f"W/{TAG}", f'"other", {TAG}', "*"])
def test_what_the_client_has_already_is_304(api_client: TestClient, content: str, condition: str) -> None:
    answer = api_client.get(content, headers={"if-none-match": condition})
    assert answer.status_code == 304
    assert answer.content == b""
    assert answer.headers["etag"] == TAG


def test_another_tag_is_answered_in_full(api_client: TestClient, content: str) -> None:
    assert api_client.get(content, headers={"if-none-match": '"other"'}).content == DATA


def test_a_download_is_resumed_only_while_the_content_is_the_same(api_client: TestClient, content: str) -> None:
    same = api_client.get(content, headers={"range": "bytes=10-", "if-range": TAG})
    assert (same.status_code, same.content) == (206, DATA[10:])
    changed = api_client.get(content, headers={"range": "bytes=10-", "if-range": '"other"'})
    assert (changed.status_code, changed.content) == (200, DATA)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("rows.jsonl", 'attachment; filename="rows.jsonl"'),
        ('a"b.txt', "attachment; filename=\"a_b.txt\"; filename*=UTF-8''a%22b.txt"),
        ("ü.txt", "attachment; filename=\"_.txt\"; filename*=UTF-8''%C3%BC.txt"),
        ("a\\b", "attachment; filename=\"a_b\"; filename*=UTF-8''a%5Cb"),
        ("a\r\nb: c", "attachment; filename=\"a__b: c\"; filename*=UTF-8''a%0D%0Ab%3A%20c"),
    ],
)
def test_a_filename_cannot_break_out_of_its_header(name: str, header: str) -> None:
    assert content_disposition(name) == header

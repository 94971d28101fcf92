"""HTTP/1.1 requests as bytes: what the load generators send."""

import json
import random

from bench.api.client import COUNTER

JOBS = "/v1/fine_tuning/jobs"
_BOUNDARY = "bench-boundary-7f3c1e"
_WORDS = ("the", "sum", "of", "seven", "boxes", "holds", "more", "apples", "than", "a", "train", "leaves", "at", "noon")


def get(path: str, key: str = "") -> bytes:
    """Return a GET, authorised when a ``key`` is given."""
    return _head("GET", path, key) + b"\r\n"


def post(path: str, body: bytes, key: str = "", *, kind: str = "application/json") -> bytes:
    """Return a POST of ``body``."""
    return post_head(path, len(body), key, kind=kind) + body


def post_head(path: str, length: int, key: str = "", *, kind: str = "application/json") -> bytes:
    """Return the head of a POST whose body has ``length`` bytes."""
    return _head("POST", path, key) + f"content-type: {kind}\r\ncontent-length: {length}\r\n\r\n".encode()


def create_body(model: str, file_id: str) -> bytes:
    """Return the body of a create call; its metadata hold the counter, so every body is another one."""
    body = {
        "model": model,
        "training_file": file_id,
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 8}}},
        "seed": 7,
        "metadata": {"number": COUNTER.decode()},
    }
    return json.dumps(body).encode()


def multipart(purpose: str, content: bytes) -> tuple[bytes, bytes, bytes]:
    """Return a form as head, file and tail."""
    field = 'content-disposition: form-data; name="purpose"'
    file = 'content-disposition: form-data; name="file"; filename="rows.jsonl"\r\ncontent-type: application/jsonl'
    head = f"--{_BOUNDARY}\r\n{field}\r\n\r\n{purpose}\r\n--{_BOUNDARY}\r\n{file}\r\n\r\n"
    return head.encode(), content, f"\r\n--{_BOUNDARY}--\r\n".encode()


MULTIPART_KIND = f"multipart/form-data; boundary={_BOUNDARY}"


def chat_rows(size: int, seed: int) -> bytes:
    """Return at least ``size`` bytes of distinct chat rows of about 1.2 KB each, as one JSON object a line."""
    draw = random.Random(seed)
    text = " ".join(draw.choice(_WORDS) for _ in range(120))
    lines, total, number = [], 0, 0
    while total < size:
        number += 1
        start = draw.randrange(len(text) // 4)
        row = {
            "messages": [
                {"role": "user", "content": f"Question {seed}-{number}: {text[start:]}"},
                {"role": "assistant", "content": f"Answer {number}: {text[: len(text) - start]}"},
            ]
        }
        lines.append(json.dumps(row).encode() + b"\n")
        total += len(lines[-1])
    return b"".join(lines)


def _head(method: str, path: str, key: str) -> bytes:
    authorization = f"authorization: Bearer {key}\r\n" if key else ""
    return f"{method} {path} HTTP/1.1\r\nhost: bench\r\n{authorization}".encode()

"""Drives an application message by message, where timing or a broken connection is the point."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from fastapi import FastAPI
from starlette.types import Message

from tests.fixtures.api import Tenant


def call(app: FastAPI, tenant: Tenant, path: str, body: Iterable[Message], **headers: str) -> list[Message]:
    """Post ``body`` message by message, then stay silent; return what the app sent."""
    sent: list[Message] = []
    messages = iter(body)
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {tenant.key}".encode())]
        + [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        "state": {},
    }

    async def receive() -> Message:
        message = next(messages, None)
        if message is None:
            await asyncio.Event().wait()
            raise AssertionError
        return message

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(_within(app, scope, receive, send))
    return sent


async def _within(
    app: FastAPI,
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    async with asyncio.timeout(20):
        await app(scope, receive, send)


def chunk(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


def status_of(sent: list[Message]) -> int:
    return int(next(message["status"] for message in sent if message["type"] == "http.response.start"))

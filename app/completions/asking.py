"""Asks one question over HTTP: bounded in time and size, repeated where repeating may help.

| what happens | code | repeated |
|---|---|---|
| no connection, or it breaks | ``unreachable`` | yes |
| no complete answer in ``timeout_seconds`` | ``timeout`` | yes |
| 408, 409, 425, 429, 5xx | ``refused`` | yes, after ``Retry-After`` where it is sent |
| 401, 403, 404 | ``refused`` | no; nothing else is asked either |
| any other status but 200 | ``refused`` | no |
| 200 without a chat completion in it | ``malformed`` | no |
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import msgspec

from app.completions.configuration import Endpoint, Target
from app.core.logging import get_logger
from worker.training.events import CompletionRequest

ANSWER_BYTES = 512 << 10
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 60.0
_TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_HOPELESS = frozenset({401, 403, 404})
_CHARACTERS_PER_TOKEN = 4
_LOG = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and the tokens that prompt and answer cost."""

    text: str
    tokens: int


class AskingError(Exception):
    """A question without an answer.

    Args:
        code: As in ``CompletionAnswer``.
        message: For the job's owner: names the endpoint, repeats nothing that the endpoint said.
        retry_after: Seconds until another try makes sense; None: it makes none.
        is_hopeless: Every other question would end the same way.
    """

    def __init__(self, code: str, message: str, *, retry_after: float | None = None, is_hopeless: bool = False) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.is_hopeless = is_hopeless


class _Text(msgspec.Struct):
    type: str = ""
    text: str = ""


class _Message(msgspec.Struct):
    content: str | list[_Text] | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Usage(msgspec.Struct):
    total_tokens: int | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Completion).decode


@dataclass
class Asker:
    """Asks one endpoint. Belongs to one event loop.

    Attributes:
        name: Of the endpoint.
        endpoint: Its settings.
        client: Connections to it.
    """

    name: str
    endpoint: Endpoint
    client: httpx.AsyncClient
    _paused_until: float = field(default=0.0, init=False)

    @classmethod
    def open(cls, target: Target) -> "Asker":
        """Return an asker with connections of its own; they are made when they are needed."""
        key = target.endpoint.key
        client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=target.endpoint.timeout_seconds,
            limits=httpx.Limits(max_connections=target.endpoint.concurrency),
        )
        return cls(target.name, target.endpoint, client)

    async def ask(self, model: str, request: CompletionRequest, on_attempt: Callable[[], None]) -> Answer:
        """Return the answer to ``request``; ``on_attempt`` is called before each HTTP request and may raise.

        Raises:
            AskingError: There is none.
        """
        payload = {"model": model, "messages": request.messages, **_given(request.sampling)}
        for attempt in range(1, self.endpoint.attempts + 1):
            await asyncio.sleep(max(0.0, self._paused_until - time.monotonic()))
            on_attempt()
            try:
                return await self._post(payload)
            except AskingError as error:
                if error.retry_after is None or attempt == self.endpoint.attempts:
                    raise
                await asyncio.sleep(max(error.retry_after, _backoff(attempt)))
        raise AssertionError("a loop of at least one attempt returns or raises")

    async def _post(self, payload: dict[str, Any]) -> Answer:
        try:
            async with asyncio.timeout(self.endpoint.timeout_seconds):
                status, headers, body = await self._exchange(payload)
        except (TimeoutError, httpx.TimeoutException) as error:
            limit = f"{self.endpoint.timeout_seconds:g} seconds"
            message = f"The endpoint '{self.name}' did not answer within {limit}."
            raise AskingError("timeout", message, retry_after=0.0) from error
        except (httpx.HTTPError, OSError) as error:
            message = f"The endpoint '{self.name}' cannot be reached ({type(error).__name__})."
            raise AskingError("unreachable", message, retry_after=0.0) from error
        if status != httpx.codes.OK:
            raise self._refusal(status, headers, body)
        return self._read(payload, body)

    async def _exchange(self, payload: dict[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        url = f"{self.endpoint.base_url.rstrip('/')}/chat/completions"
        body = bytearray()
        async with self.client.stream("POST", url, json=payload) as response:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > ANSWER_BYTES:
                    raise AskingError("malformed", f"The endpoint '{self.name}' sent more than {ANSWER_BYTES} bytes.")
        return response.status_code, response.headers, bytes(body)

    def _refusal(self, status: int, headers: httpx.Headers, body: bytes) -> AskingError:
        said = body[:300].decode("utf-8", "replace")
        if key := self.endpoint.key:
            said = said.replace(key, "[redacted]")
        _LOG.warning("endpoint refused", endpoint=self.name, status=status, said=said)
        message = f"The endpoint '{self.name}' answered with status {status}."
        if status not in _TRANSIENT:
            return AskingError("refused", message, is_hopeless=status in _HOPELESS)
        wait = _retry_after(headers)
        if wait > LONGEST_WAIT_SECONDS:
            return AskingError("refused", f"{message[:-1]} and asks to wait {wait:.0f} seconds.")
        # Whoever asks next waits too: the limit is the endpoint's, not the question's.
        self._paused_until = max(self._paused_until, time.monotonic() + wait)
        return AskingError("refused", message, retry_after=wait)

    def _read(self, payload: dict[str, Any], body: bytes) -> Answer:
        try:
            completion = _decode(body)
            content = completion.choices[0].message.content
        except (msgspec.MsgspecError, UnicodeDecodeError, IndexError, RecursionError) as error:
            message = f"The endpoint '{self.name}' answered with something that is no chat completion."
            raise AskingError("malformed", message) from error
        parts = [part.text for part in content if part.type == "text"] if isinstance(content, list) else [content or ""]
        text = "".join(parts).replace("\x00", "")
        tokens = completion.usage.total_tokens if completion.usage else None
        return Answer(text, _estimate_tokens(payload, text) if tokens is None else max(0, tokens))


def _given(sampling: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sampling.items() if value is not None}


def _estimate_tokens(payload: dict[str, Any], text: str) -> int:
    """Return a rough count for servers that report none."""
    characters = len(text) + sum(len(message.get("content", "")) for message in payload["messages"])
    return 1 + characters // _CHARACTERS_PER_TOKEN


def _backoff(attempt: int) -> float:
    """Return seconds that double with each attempt, with jitter so that questions do not return together."""
    return float(min(FIRST_WAIT_SECONDS * 2.0 ** (attempt - 1), LONGEST_WAIT_SECONDS) * random.uniform(0.5, 1.0))


def _retry_after(headers: httpx.Headers) -> float:
    """Return the seconds that the header asks for, as a number or a date; 0 when it is absent or nonsense."""
    text = headers.get("retry-after", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0

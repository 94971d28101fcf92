"""The ``openai`` client of the command line, and what the API returns as plain dictionaries."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
from openai import OpenAI
from openai.pagination import SyncCursorPage

from app.cli.output import CommandError
from app.cli.state import state_directory

Record = dict[str, Any]


@contextmanager
def connected(state_dir: Path | None) -> Iterator[OpenAI]:
    """Yield a client of OPENAI_BASE_URL and OPENAI_API_KEY, or else of the service on the state directory.

    Raises:
        CommandError: There is no such service, or it refused a request; says why.
    """
    base_url, api_key = os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY")
    if not (base_url and api_key):
        base_url, api_key = _connection_file(state_dir)
    try:
        with OpenAI(base_url=base_url, api_key=api_key) as client:
            yield client
    except openai.APIStatusError as error:
        place = f" ({error.param})" if error.param else ""
        raise CommandError(f"{error.message}{place} [{error.request_id or error.status_code}]") from error
    except openai.APIConnectionError as error:
        raise CommandError(f"Cannot reach {base_url}: {error.__cause__ or error}. Does `nlft up` run?") from error


def take(page: SyncCursorPage[Any], limit: int) -> list[Record]:
    """Return the first ``limit`` objects of a paged list, asking for further pages as needed."""
    return [record for record, _ in zip((item.to_dict() for item in page), range(limit), strict=False)]


def get(client: OpenAI, path: str) -> Record:
    """Return the JSON object at ``path``, for routes beyond those of the openai package."""
    answer: Record = client.get(path, cast_to=dict[str, Any])
    return answer


def _connection_file(state_dir: Path | None) -> tuple[str, str]:
    state = state_directory(state_dir)
    try:
        record = json.loads(state.connection_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CommandError(
            f"No service runs on {state.path}. Start it with `nlft up`, or set OPENAI_BASE_URL and OPENAI_API_KEY."
        ) from None
    return record["base_url"], record["api_key"]

"""Previews whose process is ``scripted_previewer.py``, and workers for them."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.core import ids
from app.core.settings import Settings
from app.db.models import SaliencyPreview
from app.db.session import SessionFactory, transaction
from app.saliency import repository
from tests.worker.scripted_jobs import BASE_MODEL, SCRIPTED_COMMAND
from worker import runner
from worker.context import WorkerContext
from worker.training.previews.protocol import PreviewRequest
from worker.training.spec import BaseModelRef

PREVIEW_COMMAND = (sys.executable, str(Path(__file__).with_name("scripted_previewer.py")))


def scripted_row(**script: Any) -> dict[str, Any]:
    """Return an NLFT row that carries a script."""
    return {
        "messages": [{"role": "user", "content": json.dumps(script)}],
        "response": "It is 4. #### 4",
        "reference": "#### 4",
        "correct": True,
    }


def scripted_request(**script: Any) -> bytes:
    """Return a preview's request that carries a script."""
    request = PreviewRequest(
        owner="proj_tests",
        model=BASE_MODEL,
        base_model=BaseModelRef(name=BASE_MODEL, path="/nowhere", digest="d" * 64),
        method="nlft",
        hyperparameters={},
        rows=json.dumps(scripted_row(**script)),
        most_tokens=1000,
    )
    return request.model_dump_json().encode()


def add_preview(factory: SessionFactory, project_id: str, *, wanted_seconds: float = 60.0, **script: Any) -> str:
    """Commit a preview that runs ``script``; return its id."""
    with transaction(factory) as session:
        preview = SaliencyPreview(
            id=ids.new_id(ids.PREVIEW), project_id=project_id, adapter_id=None, request=scripted_request(**script)
        )
        repository.add(session, preview, wanted_seconds=wanted_seconds)
        return preview.id


def read_preview(factory: SessionFactory, preview_id: str) -> SaliencyPreview | None:
    """Return the preview as it is committed now."""
    with factory() as session:
        return session.get(SaliencyPreview, preview_id)


def scripted_context(settings: Settings) -> WorkerContext:
    """Return a worker whose trainer and preview process are scripted."""
    return WorkerContext.from_settings(settings, child_command=SCRIPTED_COMMAND, preview_command=PREVIEW_COMMAND)


@contextmanager
def working(context: WorkerContext) -> Iterator[WorkerContext]:
    """Poll quickly for work in a thread of its own until the block ends."""

    def poll() -> None:
        while not context.draining.wait(0.02):
            runner.run_available(context)

    thread = threading.Thread(target=poll, name="worker", daemon=True)
    thread.start()
    try:
        yield context
    finally:
        context.draining.set()
        thread.join(30)
        context.close()
        assert not thread.is_alive()

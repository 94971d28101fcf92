"""Carries the saliency of pinned examples from a workspace to storage, after checking what it is."""

from collections.abc import Callable
from pathlib import Path

import msgspec
from sqlalchemy.orm import Session

from app.jobs.leases import Lease
from app.jobs.snapshots import register_snapshot
from worker import patience
from worker.context import WorkerContext
from worker.training.events import SaliencyEvent
from worker.training.saliency_record import SaliencyRecord
from worker.training.spec import SALIENCY_DIR
from worker.uploads import upload

MOST_BYTES = 64 << 20
_decoder = msgspec.json.Decoder(SaliencyRecord)


def store_snapshot(
    context: WorkerContext, lease: Lease, folder: Path, event: SaliencyEvent, *, give_up: Callable[[], bool]
) -> None:
    """Upload the records that ``event`` names and register them. The file stays: the trainer reads it again.

    Raises:
        ValueError: The file lies elsewhere, is too large, or holds no saliency records.
        LeaseLostError: The job is no longer this attempt's.
        patience.GaveUpError: The database stayed away.
    """
    path = _find(folder, event.path)
    examples = _count(path, event.step)
    (stored,) = upload(context, {path.name: path}, give_up=give_up)

    def register(session: Session) -> None:
        register_snapshot(session, lease, step=event.step, examples=examples, file=stored)

    patience.commit(context.factory, register, give_up=give_up)


def _find(folder: Path, name: str) -> Path:
    path = folder / name
    if path.is_symlink() or path.resolve().parent != (folder / SALIENCY_DIR).resolve() or not path.is_file():
        raise ValueError("saliency outside of the saliency folder")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError("saliency records are too large to keep")
    return path


def _count(path: Path, step: int) -> int:
    """Return how many records the file holds, each of which was made at ``step``."""
    count = 0
    with path.open("rb") as lines:
        for line in lines:
            try:
                is_right = _decoder.decode(line).step == step
            except msgspec.DecodeError as error:
                raise ValueError("a line is no saliency record") from error
            if not is_right:
                raise ValueError("saliency of another step")
            count += 1
    return count

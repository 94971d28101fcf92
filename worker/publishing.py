"""Makes a finished training visible: check, pack, store, then one guarded transaction."""

from collections.abc import Callable
from pathlib import Path

from obstore.exceptions import BaseError as StorageError
from sqlalchemy.orm import Session

from app.core.failpoints import pass_failpoint
from app.core.logging import get_logger
from app.jobs import lifecycle
from app.jobs.attempts import AttemptRecord
from app.jobs.leases import Lease, LeaseLostError
from app.jobs.publication import JobResult, StoredFile
from worker import patience
from worker.adapter_check import check_outputs
from worker.context import WorkerContext
from worker.outputs import ARCHIVE_FILE, METRICS_FILE, list_outputs, pack
from worker.training.events import ResultEvent
from worker.uploads import upload

_LOG = get_logger(__name__)


def collect_result(context: WorkerContext, folder: Path, result: ResultEvent, give_up: Callable[[], bool]) -> JobResult:
    """Check, pack and store the outputs in ``folder``; waits for a store that is away.

    Raises:
        BadOutputError: The outputs are no adapter.
        patience.GaveUpError: Store or database stayed away.
    """
    files = {path.name: path for path in list_outputs(folder)}
    check_outputs(files)
    archive = folder / ARCHIVE_FILE
    pack(files.values(), archive)
    stored = _upload_patiently(context, {**files, ARCHIVE_FILE: archive}, give_up)
    by_name = {file.name: file for file in stored}
    return JobResult(
        trained_tokens=result.trained_tokens,
        metrics=dict(result.metrics),
        artifacts=tuple(file for file in stored if file.name != ARCHIVE_FILE),
        downloads=(by_name[METRICS_FILE], by_name[ARCHIVE_FILE]),
    )


def publish(
    context: WorkerContext, lease: Lease, result: JobResult, record: AttemptRecord, *, give_up: Callable[[], bool]
) -> bool:
    """Commit the result; return False when a cancel came first.

    Raises:
        LeaseLostError: Another attempt owns the job; nothing was written.
        patience.GaveUpError: The database stayed away.
    """

    def write(session: Session) -> bool:
        visible = lifecycle.succeed(session, lease, result, record)
        pass_failpoint("before_publish_commit")
        return visible

    try:
        visible = patience.commit(context.factory, write, give_up=give_up)
    except LeaseLostError:
        if not _is_ours(context, lease, give_up):
            raise
        # An earlier commit had worked and only its reply was lost.
        visible = True
    pass_failpoint("after_publish_commit")
    return visible


def _is_ours(context: WorkerContext, lease: Lease, give_up: Callable[[], bool]) -> bool:
    return patience.commit(context.factory, lambda session: lifecycle.has_succeeded_in(session, lease), give_up=give_up)


def _upload_patiently(
    context: WorkerContext, files: dict[str, Path], give_up: Callable[[], bool]
) -> tuple[StoredFile, ...]:
    for wait in patience.waits(give_up):
        try:
            return upload(context, files, give_up=give_up)
        except (OSError, StorageError) as error:
            _LOG.warning("store did not take the result", error=str(error), next_try_seconds=wait)
    raise patience.GaveUpError

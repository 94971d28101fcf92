"""Makes a finished training visible: check, pack, store, then one guarded transaction."""

from collections.abc import Callable
from pathlib import Path

from obstore.exceptions import BaseError as StorageError
from sqlalchemy.orm import Session

from app.core.failpoints import pass_failpoint
from app.core.logging import get_logger
from app.files.reports import file_report
from app.jobs import lifecycle
from app.jobs.attempts import AttemptRecord
from app.jobs.leases import Lease, LeaseLostError
from app.jobs.publication import BuiltDataset, JobResult, StoredFile
from worker import patience
from worker.adapter_check import check_outputs
from worker.context import WorkerContext
from worker.outputs import ARCHIVE_FILE, METRICS_FILE, list_outputs, pack
from worker.training.data.reader import RowReader
from worker.training.events import ResultEvent
from worker.training.spec import DATASET_FILE
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
        outcome=dict(result.usage),
        artifacts=tuple(file for file in stored if file.name != ARCHIVE_FILE),
        downloads=(by_name[METRICS_FILE], by_name[ARCHIVE_FILE]),
        built=_describe_dataset(files[DATASET_FILE], by_name[DATASET_FILE]) if DATASET_FILE in files else None,
    )


def _describe_dataset(path: Path, stored: StoredFile) -> BuiltDataset | None:
    """Return the built dataset with the report that an upload of it would get; None when no upload would take it."""
    reader = RowReader()
    with path.open("rb") as file:
        for _ in reader.rows(file):
            pass
    report = reader.report()
    if report.total_problems:
        _LOG.error("built dataset has problems", workspace=path.parent.parent.name, problems=report.total_problems)
        return None
    return BuiltDataset(stored, file_report(report))


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

"""Jobs as finished answers: JSON bytes, read in batches, and built once for every version of a row."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import closing

import msgspec
from sqlalchemy import Connection, Engine, any_, bindparam, select
from sqlalchemy.dialects.postgresql import ARRAY, TEXT

from app.db.batching import BatchedReads
from app.db.models.fine_tuning_job import FineTuningJob
from app.jobs.wire import JOB_COLUMNS, read_job

_KEPT = 4096
# Transaction and place that wrote a row: every change gives it another pair, and the database is asked each time.
_VERSIONS = "SELECT project_id, id, xmin::text, ctid::text FROM fine_tuning_jobs WHERE id = ANY(%s)"
_ROWS = select(*JOB_COLUMNS).where(FineTuningJob.id == any_(bindparam("ids", type_=ARRAY(TEXT))))

JobKey = tuple[str, str]
"""Ids of a project and of a job of it."""
Version = tuple[str, str, str, str]
"""Ids of project and job, then transaction and place of the row."""


class JobDocuments:
    """The bodies of ``GET /v1/fine_tuning/jobs/ID``. The reading thread keeps one connection of the pool.

    Args:
        engine: Where the rows are.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._reads = BatchedReads(self._load)
        self._built: OrderedDict[Version, bytes] = OrderedDict()
        self._connection: Connection | None = None

    async def find(self, project_id: str, job_id: str) -> bytes | None:
        """Return the project's job as JSON; None when the project has no such job.

        Raises:
            Exception: The database did not answer; the next call connects anew.
        """
        return await self._reads.get((project_id, job_id))

    def close(self) -> None:
        """End the thread and give its connection back."""
        self._reads.close()
        if self._connection is not None:
            self._connection.close()

    def _load(self, keys: Sequence[JobKey]) -> Mapping[JobKey, bytes]:
        connection = self._connection or self._engine.connect()
        self._connection = None
        try:
            found = self._find(connection, [job_id for _, job_id in keys])
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        self._connection = connection
        return found

    def _find(self, connection: Connection, job_ids: list[str]) -> dict[JobKey, bytes]:
        with closing(connection.connection.cursor()) as cursor:
            cursor.execute(_VERSIONS, [job_ids])
            versions: list[Version] = [(row[0], row[1], row[2], row[3]) for row in cursor.fetchall()]
        # By project too: a batch holds the questions of several.
        found = {version[:2]: self._built.get(version) for version in versions}
        missing = [version for version in versions if found[version[:2]] is None]
        if missing:
            rows = connection.execute(_ROWS, {"ids": [job_id for _, job_id, *_ in missing]})
            found |= {(row.project_id, row.id): msgspec.json.encode(read_job(row)) for row in rows}
        for version in missing:
            self._keep(version, found[version[:2]])
        return {key: document for key, document in found.items() if document is not None}

    def _keep(self, version: Version, document: bytes | None) -> None:
        """Keep what was built; a row that has changed since its version was read is newer, never older, than it."""
        if document is not None:
            self._built[version] = document
        while len(self._built) > _KEPT:
            self._built.popitem(last=False)

"""Jobs as finished answers: JSON bytes, read without sessions and in batches."""

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import Engine, any_, bindparam, select
from sqlalchemy.dialects.postgresql import ARRAY, TEXT

from app.db.batching import BatchedReads
from app.db.models.fine_tuning_job import FineTuningJob
from app.jobs.wire import JOB_COLUMNS, read_job

_BY_ID = select(*JOB_COLUMNS).where(FineTuningJob.id == any_(bindparam("ids", type_=ARRAY(TEXT))))
JobKey = tuple[str, str]
"""Id of a project and of a job of it."""


class JobDocuments:
    """The bodies of ``GET /v1/fine_tuning/jobs/ID``.

    Args:
        engine: Where the rows are.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._reads = BatchedReads(self._load)

    async def find(self, project_id: str, job_id: str) -> bytes | None:
        """Return the project's job as JSON; None when the project has no such job.

        Raises:
            SQLAlchemyError: The database cannot be asked.
        """
        return await self._reads.get((project_id, job_id))

    def close(self) -> None:
        """End the threads."""
        self._reads.close()

    def _load(self, keys: Sequence[JobKey]) -> Mapping[JobKey, bytes]:
        with self._engine.connect() as connection:
            rows = connection.execute(_BY_ID, {"ids": [job_id for _, job_id in keys]}).all()
        # By project too: a batch holds the questions of several.
        return {(row.project_id, row.id): msgspec.json.encode(read_job(row)) for row in rows}

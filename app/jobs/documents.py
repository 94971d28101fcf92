"""Jobs as finished answers: JSON bytes, built once for every version of a row, whose version is asked for each time."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import Engine, any_, bindparam, literal_column, select
from sqlalchemy.dialects.postgresql import ARRAY, TEXT

from app.db.batching import BatchedReads
from app.db.lookups import Lookups
from app.db.models.fine_tuning_job import FineTuningJob
from app.jobs.wire import JOB_COLUMNS, read_job

_KEPT = 4096
# Transaction and place that wrote a row: every change gives it another pair.
_VERSION = "project_id || ' ' || id || ' ' || xmin || ' ' || ctid"
_VERSIONS = f"SELECT id, {_VERSION} FROM fine_tuning_jobs WHERE id = ANY(string_to_array($1, ','))"
_ROWS = select(*JOB_COLUMNS, literal_column(_VERSION).label("version")).where(
    FineTuningJob.id == any_(bindparam("ids", type_=ARRAY(TEXT)))
)


class JobDocuments:
    """The bodies of ``GET /v1/fine_tuning/jobs/ID``. Keeps one connection of the pool once it was asked.

    Args:
        engine: Where the rows are.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._versions = Lookups(engine, _VERSIONS)
        self._rows = BatchedReads(self._load)
        self._built: OrderedDict[bytes, bytes] = OrderedDict()

    def open(self) -> None:
        """Serve the running event loop from here on."""
        self._versions.open()

    async def find(self, project_id: str, job_id: str) -> bytes | None:
        """Return the project's job as JSON; None when the project has no such job, or another event loop is served.

        Raises:
            SQLAlchemyError: The database did not answer, or no connection to it is free.
            psycopg.Error: Likewise. The next call connects anew.
        """
        version = await self._versions.get(job_id) if self._versions.is_open else None
        if version is None or not version.startswith(b"%b " % project_id.encode()):
            return None
        return self._built.get(version) or await self._build(job_id)

    def close(self) -> None:
        """Give the connection back and end the thread that reads rows."""
        self._versions.close()
        self._rows.close()

    async def _build(self, job_id: str) -> bytes | None:
        """Return the job as it is by now; the row may have changed since its version was asked for."""
        row = await self._rows.get(job_id)
        if row is None:
            return None
        version, document = row
        self._built[version] = document
        while len(self._built) > _KEPT:
            self._built.popitem(last=False)
        return document

    def _load(self, job_ids: Sequence[str]) -> Mapping[str, tuple[bytes, bytes]]:
        """Return version and JSON of each job that is there."""
        with self._engine.connect() as connection:
            rows = connection.execute(_ROWS, {"ids": job_ids}).all()
        return {row.id: (row.version.encode(), msgspec.json.encode(read_job(row))) for row in rows}

"""What a job will take: predicted from the first rows of its files and from finished jobs on the same base model."""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from threading import Lock
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import msgspec
from sqlalchemy import bindparam, literal_column, select
from sqlalchemy.orm import Session

from app.core.logging import get_logger
from app.db.base import Json
from app.db.models.base_model import BaseModel
from app.db.models.file import File
from app.db.models.fine_tuning_job import FineTuningJob, JobStatus
from app.jobs.creation import NewJob
from app.jobs.inputs import JobInputs, recall_inputs
from app.storage import BlobStore
from worker.training.advice import advise
from worker.training.data.reader import ReadLimits, Row, RowReader
from worker.training.estimation.pace import Pace, learn_pace
from worker.training.estimation.prediction import Sample, predict
from worker.training.estimation.workload import find_long_lines
from worker.training.methods.auto import RunFacts
from worker.training.spec import TrainingSpec

_SAMPLE_BYTES = 1 << 20
_SAMPLE_ROWS = 500
_ADVICE_BYTES = 32 << 20
_ADVICE_ROWS = 20_000
_EARLIER_JOBS = 20
_KEPT_SAMPLES = 8
_KEPT_PREDICTIONS = 256
_OUTCOMES = (
    select(FineTuningJob.outcome)
    .where(
        FineTuningJob.base_model_id == bindparam("base_model_id"),
        FineTuningJob.status == literal_column("'succeeded'"),  # as the index on finished jobs has it
        FineTuningJob.outcome.is_not(None),
    )
    .order_by(FineTuningJob.id.desc())
    .limit(_EARLIER_JOBS)
)
Value = TypeVar("Value")
_LOG = get_logger(__name__)


class _Memory:
    """What was read and predicted lately: a sweep over one file need not read it again for every job."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._samples: OrderedDict[tuple[str, int], Sample] = OrderedDict()
        self._predictions: OrderedDict[Hashable, Json] = OrderedDict()

    def sample(self, store: BlobStore, file: File) -> Sample:
        """Return the first rows of a file."""
        key = (file.sha256, int((file.report or {})["rows"]))
        found = _recall(self._samples, key, self._lock)
        if found is None:
            found = Sample(_read(store, file, most_bytes=_SAMPLE_BYTES, most_rows=_SAMPLE_ROWS), key[1])
            _remember(self._samples, key, found, self._lock, most=_KEPT_SAMPLES)
        return found

    def prediction(self, key: Hashable) -> Json | None:
        """Return what was predicted under ``key``."""
        return _recall(self._predictions, key, self._lock)

    def keep(self, key: Hashable, prediction: Json) -> None:
        """Keep a prediction."""
        _remember(self._predictions, key, prediction, self._lock, most=_KEPT_PREDICTIONS)


# By store, whose bytes never change under a digest.
_memories: WeakKeyDictionary[BlobStore, _Memory] = WeakKeyDictionary()


def recall_prediction(store: BlobStore, new: NewJob, pace: Pace) -> Json | None:
    """Return what ``predict_job`` would, if it was asked the same lately; reads nothing, so it may run under a lock."""
    try:
        return _memory(store).prediction(_key(new.job, new.inputs, pace))
    except Exception as error:  # noqa: BLE001 - as below
        _LOG.warning("no prediction", job_id=new.job.id, error=type(error).__name__)
        return None


def attach_prediction(session: Session, store: BlobStore, job: FineTuningJob) -> None:
    """Store on a queued job what it is expected to take, unless it says so already. Never fails.

    A prediction is made after the job was accepted: neither a store that is away nor odd rows keep a job from being
    created.
    """
    if job.status != JobStatus.QUEUED or job.prediction is not None:
        return
    try:
        job.prediction = predict_job(session, store, job)
        session.commit()
    except Exception as error:  # noqa: BLE001 - an estimate is worth no failed create
        session.rollback()
        session.refresh(job)
        _LOG.warning("no prediction", job_id=job.id, error=type(error).__name__)


def predict_job(session: Session, store: BlobStore, job: FineTuningJob) -> Json:
    """Return the figures of ``estimation.prediction.predict`` for a job, stored or not.

    Raises:
        BlobNotFoundError: A file's bytes are gone.
    """
    memory = _memory(store)
    inputs = recall_inputs(session, job)
    base_model = inputs.base_model
    pace = find_pace(session, base_model)
    key = _key(job, inputs, pace)
    known = memory.prediction(key)
    if known is not None:
        return known
    spec = TrainingSpec.model_validate(job.spec)
    training = memory.sample(store, inputs.training_file)
    validation = memory.sample(store, inputs.validation_file) if inputs.validation_file else None
    facts = RunFacts(training.total, base_model.parameters, base_model.context_length)
    prediction = predict(spec, facts, pace, training, validation)
    memory.keep(key, prediction)
    return prediction


def find_pace(session: Session, base_model: BaseModel) -> Pace:
    """Return what the newest finished jobs on a base model teach, of all projects: figures only, no content."""
    outcomes = session.scalars(_OUTCOMES, {"base_model_id": base_model.id})
    return learn_pace([outcome for outcome in outcomes if outcome], base_model.parameters)


def report_on_data(session: Session, store: BlobStore, job: FineTuningJob) -> Json:
    """Return, line by line, what the upload and the rows themselves say about a job's files.

    Raises:
        BlobNotFoundError: A file's bytes are gone.
    """
    inputs = recall_inputs(session, job)
    base_model = inputs.base_model
    rows = _read(store, inputs.training_file, most_bytes=_ADVICE_BYTES, most_rows=_ADVICE_ROWS)
    held_out: list[Row] = []
    files = {"training_file": _describe(inputs.training_file)}
    if inputs.validation_file is not None:
        held_out = _read(store, inputs.validation_file, most_bytes=_ADVICE_BYTES, most_rows=_ADVICE_ROWS)
        files["validation_file"] = _describe(inputs.validation_file)
    found = [_advice(one.code, one.level, one.message, one.data) for one in advise(rows, held_out)]
    scale = find_pace(session, base_model).scale
    spec = TrainingSpec.model_validate(job.spec)
    facts = RunFacts(len(rows), base_model.parameters, base_model.context_length)
    long, limit = find_long_lines(spec, facts, rows, scale)
    if long:
        message = f"{len(long)} row(s) may be longer than {limit} tokens; a job with a longer row fails."
        found.append(_advice("long_rows", "warn", message, {"count": len(long), "lines": long[:20]}))
    return {**files, "rows_read": len(rows), "advice": found}


def _advice(code: str, level: str, message: str, data: Any) -> Json:
    return {"code": code, "level": level, "message": message, "data": dict(data)}


def _describe(file: File) -> Json:
    report = file.report or {}
    return {"id": file.id, **{name: report.get(name) for name in ("format", "rows", "counts", "warnings")}}


def _key(job: FineTuningJob, inputs: JobInputs, pace: Pace) -> Hashable:
    """Return everything that a prediction follows from. The seed only chooses among rows that are mixed."""
    files = [inputs.training_file, *([inputs.validation_file] if inputs.validation_file else [])]
    base_model = inputs.base_model
    is_mixed = (inputs.training_file.report or {}).get("format") == "nlft"
    spec = {**job.spec, "job_id": "", "seed": job.seed if is_mixed else 0}
    return (
        msgspec.json.encode(spec, order="sorted"),
        tuple((file.sha256, (file.report or {}).get("rows")) for file in files),
        (base_model.parameters, base_model.context_length),
        pace,
    )


def _memory(store: BlobStore) -> _Memory:
    return _memories.setdefault(store, _Memory())


def _recall(kept: OrderedDict[Any, Value], key: Hashable, lock: Lock) -> Value | None:
    with lock:
        if key in kept:
            kept.move_to_end(key)
        return kept.get(key)


def _remember(kept: OrderedDict[Any, Value], key: Hashable, value: Value, lock: Lock, *, most: int) -> None:
    with lock:
        kept[key] = value
        while len(kept) > most:
            kept.popitem(last=False)


def _read(store: BlobStore, file: File, *, most_bytes: int, most_rows: int) -> list[Row]:
    """Return the first rows of a file that was found sound at upload."""
    reader = RowReader(ReadLimits(line_bytes=most_bytes))
    rows: list[Row] = []
    with_end = file.bytes <= most_bytes
    for found in _feed(reader, store.read(file.sha256, 0, most_bytes), with_end=with_end):
        rows += found
        if len(rows) >= most_rows:
            break
    return rows[:most_rows]


def _feed(reader: RowReader, chunks: Iterable[bytes], *, with_end: bool) -> Iterator[list[Row]]:
    for chunk in chunks:
        yield reader.feed(chunk)
    if with_end:
        yield reader.finish()

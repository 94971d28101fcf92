"""Receives one upload: body to form parser to hash, storage and row validation in one pass, in bounded memory.

The event loop only collects bytes; everything else happens in a thread, a batch at a time.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError

from app.core.errors import InvalidRequestError, PayloadTooLargeError, ServiceError
from app.core.field_paths import invalid_request
from app.core.settings import Settings
from app.files.multipart import FILE_FIELD, MultipartForm
from app.files.reports import file_report
from app.files.schemas import FINE_TUNE, ExpiresAfter, UploadForm
from app.storage import BlobStore, BlobWriter, StoredBlob
from worker.training.data.reader import ReadLimits, ReadReport, RowReader

BATCH_BYTES = 1 << 20
_SHOWN_PROBLEMS = 3


@dataclass(frozen=True, slots=True)
class Upload:
    """A received file whose bytes are stored but which no row names yet."""

    filename: str
    purpose: str
    expires_after: ExpiresAfter | None
    blob: StoredBlob
    report: dict[str, Any] | None


async def receive_upload(body: AsyncIterator[bytes], receiver: "UploadReceiver") -> Upload:
    """Return the upload that ``body`` holds; when the client goes away or the form is bad, nothing is stored.

    Raises:
        InvalidRequestError: The form, a field or a dataset row is wrong.
        PayloadTooLargeError: The file is larger than the limit.
    """
    with receiver:
        fault: ServiceError | None = None
        batch: list[bytes] = []
        size = 0
        async for chunk in body:
            batch.append(chunk)
            size += len(chunk)
            if size >= BATCH_BYTES:
                fault = fault or await run_in_threadpool(receiver.feed, batch)
                batch, size = [], 0
        fault = fault or await run_in_threadpool(receiver.feed, batch)
        if fault is not None:
            raise fault
        return await run_in_threadpool(receiver.finish)


class UploadReceiver:
    """The blocking half of an upload, used from one thread at a time; a context manager that cleans up."""

    def __init__(self, content_type: str, store: BlobStore, settings: Settings) -> None:
        self._form = MultipartForm(content_type, self._take)
        self._reader = RowReader(ReadLimits(line_bytes=settings.max_line_bytes))
        self._max_bytes = settings.max_upload_bytes
        self._bytes = 0
        self._writer: BlobWriter = store.writer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.abort()

    def feed(self, batch: Sequence[bytes]) -> ServiceError | None:
        """Take the next pieces of the body; return the fault that makes the rest pointless.

        It is returned, not raised, so that the caller reads the body to its end first: many clients see a broken
        connection instead of the answer when a server stops reading.
        """
        try:
            for piece in batch:
                self._form.feed(piece)
        except ServiceError as fault:
            return fault
        return None

    def finish(self) -> Upload:
        """Check everything that only the end can tell, then store the bytes."""
        self._form.finish()
        fields = _parse_fields(self._form.fields)
        if self._bytes == 0:
            raise InvalidRequestError("The uploaded file is empty.", param=FILE_FIELD, code="empty_file")
        report = self._validated() if fields.purpose == FINE_TUNE else None
        assert self._form.filename is not None
        return Upload(self._form.filename, fields.purpose, fields.expires_after, self._writer.finish(), report)

    def _take(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > self._max_bytes:
            raise PayloadTooLargeError(
                f"The file is larger than the {self._max_bytes} bytes that this server accepts.", param=FILE_FIELD
            )
        self._writer.write(data)
        # A purpose may follow the file in the form: until it is known, the rows are checked on suspicion.
        if self._form.fields.get("purpose", FINE_TUNE) == FINE_TUNE:
            self._reader.check(data)

    def _validated(self) -> dict[str, Any]:
        self._reader.finish()
        report = self._reader.report()
        if report.total_problems:
            raise _bad_rows(report)
        return file_report(report)


def _parse_fields(fields: dict[str, str]) -> UploadForm:
    """Return the fields as typed values; ``expires_after[seconds]`` is the SDK's spelling of a nested field."""
    nested: dict[str, Any] = {}
    for name, value in fields.items():
        outer, bracket, inner = name.partition("[")
        if bracket and inner.endswith("]"):
            nested.setdefault(outer, {})[inner[:-1]] = value
        else:
            nested[name] = value
    try:
        return UploadForm.model_validate(nested)
    except ValidationError as error:
        raise invalid_request(error, UploadForm) from error


def _bad_rows(report: ReadReport) -> InvalidRequestError:
    shown = "; ".join(str(problem) for problem in report.problems[:_SHOWN_PROBLEMS])
    rest = report.total_problems - min(_SHOWN_PROBLEMS, len(report.problems))
    first = report.problems[0]
    return InvalidRequestError(
        f"The file cannot be used for fine-tuning: {shown}{f' (and {rest} more)' if rest else ''}.",
        param=f"line {first.line}: {first.path}" if first.path else f"line {first.line}",
        code="invalid_training_file",
        details={"problems": report.to_json()["problems"], "total_problems": report.total_problems},
    )

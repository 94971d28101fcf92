"""Wire objects of files."""

from typing import Annotated, Any, Literal

from pydantic import Field

from app.core.pagination import PageQuery
from app.core.schemas import Schema, UnixTime

UploadPurpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
FINE_TUNE = "fine-tune"


class ExpiresAfter(Schema):
    """When a file goes away by itself: ``seconds`` after the anchor."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000, description="One hour to thirty days.")]


class UploadForm(Schema):
    """The fields beside the file in an upload."""

    purpose: UploadPurpose
    expires_after: ExpiresAfter | None = None


class FileObject(Schema):
    """An OpenAI file object, and ``report``: what validation found in a fine-tune file (rows, format, warnings)."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: UnixTime
    expires_at: UnixTime | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: None = None
    report: dict[str, Any] | None

    def without_warnings(self) -> "FileObject":
        """Return the form for lists, whose report only counts: ten thousand files may have a hundred warnings each."""
        counted = {name: value for name, value in (self.report or {}).items() if name != "warnings"}
        return self.model_copy(update={"report": counted or None})


class FilesQuery(PageQuery):
    """Query parameters of the list of files."""

    limit: int = Field(10_000, ge=1, le=10_000, description="Most files to return.")
    purpose: str | None = Field(None, description="Only files of this purpose.")
    order: Literal["asc", "desc"] = Field("desc", description="By creation time.")

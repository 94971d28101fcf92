"""Takes a multipart form apart while it arrives: small fields are kept, the file's bytes go straight to a sink.

Nothing is spooled: python-multipart's push parser calls back with slices of the bytes that were fed.
"""

import re
from collections.abc import Callable
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header

from app.core.errors import InvalidRequestError

FILE_FIELD = "file"
_MAX_FIELDS = 16
_MAX_FIELD_BYTES = 4096
_MAX_FILENAME = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class MultipartForm:
    """A form with one file.

    Args:
        content_type: The request's header; it names the boundary.
        sink: Called with each piece of the file's bytes: what was fed, where that is the file's alone.

    Attributes:
        fields: Text fields by name, complete once the parser has passed them.
        filename: The file's name without any folder, or None before the file was seen.

    Raises:
        InvalidRequestError: The request is not a multipart form; also from ``feed`` and ``finish``, for broken ones.
    """

    def __init__(self, content_type: str, sink: Callable[[bytes], None]) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise InvalidRequestError(
                "Upload the file as multipart/form-data with a boundary in the Content-Type header.",
                code="invalid_content_type",
            )
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._sink = sink
        self._name = ""
        self._in_file = False
        self._header = [bytearray(), bytearray()]
        self._headers: dict[bytes, bytes] = {}
        self._value = bytearray()
        self._is_complete = False
        self._parser = self._build_parser(options[b"boundary"])

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        # A boundary begins with a CR. To look for one byte is far cheaper than the parser's search for the boundary.
        if self._is_inside_file() and b"\r" not in data:
            self._sink(data)
            return
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _broken() from error

    def finish(self) -> None:
        """Check that the form was complete and held a file."""
        if not self._is_complete:
            raise _broken()
        if self.filename is None:
            raise InvalidRequestError(
                "Missing required parameter: 'file'.", param=FILE_FIELD, code="missing_required_parameter"
            )

    def _is_inside_file(self) -> bool:
        """Return whether the parser holds nothing back: what came last was the file's, without a boundary begun."""
        return self._in_file and self._parser.state == MultipartState.PART_DATA and self._parser.index == 0

    def _build_parser(self, boundary: bytes) -> MultipartParser:
        callbacks: Any = {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._open_part,
            "on_part_data": self._take_data,
            "on_part_end": self._end_part,
            "on_end": self._end_form,
        }
        try:
            return MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise _broken() from error

    def _begin_part(self) -> None:
        self._headers.clear()
        self._value.clear()
        self._in_file = False

    def _end_header(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def _open_part(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._name = _text(options.get(b"name", b""))
        if self._name == FILE_FIELD:
            self._open_file(options.get(b"filename"))
        elif not self._name:
            raise InvalidRequestError("A part of the form has no name.", code="invalid_multipart")
        elif self._name in self.fields:
            raise InvalidRequestError(f"'{self._name}' is given twice.", param=self._name, code="duplicate_parameter")
        elif len(self.fields) >= _MAX_FIELDS:
            raise InvalidRequestError("The form has too many fields.", code="invalid_multipart")

    def _open_file(self, raw_name: bytes | None) -> None:
        if self.filename is not None:
            raise InvalidRequestError("Upload one file at a time.", param=FILE_FIELD, code="duplicate_parameter")
        name = clean_filename(_text(raw_name or b""))
        if not name:
            raise InvalidRequestError("The part 'file' needs a filename.", param=FILE_FIELD, code="missing_filename")
        self.filename = name
        self._in_file = True

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._sink(data[start:end])  # no copy where it is all of it
            return
        self._value += data[start:end]
        if len(self._value) > _MAX_FIELD_BYTES:
            raise InvalidRequestError(f"'{self._name}' is too long.", param=self._name, code="invalid_value")

    def _end_part(self) -> None:
        if not self._in_file:
            self.fields[self._name] = _text(bytes(self._value))

    def _end_form(self) -> None:
        self._is_complete = True


def clean_filename(name: str) -> str:
    """Return the last path component of ``name`` without control characters; empty when nothing usable is left."""
    last = _CONTROL.sub("", name).replace("\\", "/").rsplit("/", 1)[-1].strip()
    return "" if last in {".", ".."} else last[:_MAX_FILENAME]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="replace")


def _broken() -> InvalidRequestError:
    return InvalidRequestError(
        "The multipart form is malformed or ends too early; send it again.", code="invalid_multipart"
    )

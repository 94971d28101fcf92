"""The multipart parser against honest and hostile forms."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InvalidRequestError
from app.files.multipart import MultipartForm, clean_filename

KIND = "multipart/form-data; boundary=b"
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
END = b"\r\n--b--\r\n"


def field(name: bytes, value: bytes) -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="' + name + b'"\r\n\r\n' + value + b"\r\n"


def parse(body: bytes, kind: str = KIND, step: int = 1 << 20) -> tuple[MultipartForm, bytes]:
    received = bytearray()
    form = MultipartForm(kind, received.extend)
    for start in range(0, len(body), step):
        form.feed(body[start : start + step])
    form.finish()
    return form, bytes(received)


def fault_of(body: bytes, kind: str = KIND) -> str | None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(body, kind)
    return caught.value.code


@given(content=st.binary(max_size=300), step=st.integers(1, 50))
def test_the_file_arrives_unchanged_however_the_body_is_cut(content: bytes, step: int) -> None:
    if b"--b" in content:
        content = content.replace(b"--b", b"")
    form, received = parse(field(b"purpose", b"batch") + FILE + content + END, step=step)
    assert received == content
    assert form.fields == {"purpose": "batch"}
    assert form.filename == "f"


@pytest.mark.parametrize(
    "kind", ["", "text/plain", KIND[:19], "multipart/form-data; boundary=", "multipart/mixed; boundary=b"]
)
def test_a_request_that_is_no_form_is_refused(kind: str) -> None:
    assert fault_of(FILE + b"x" + END, kind) == "invalid_content_type"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        FILE,
        FILE + b"x",
        FILE + b"x\r\n--b\r\n",
        FILE + b"x\r\n--other--\r\n",
        b"--b\r\n\r\nno headers" + END,
        b"--b\r\nContent-Disposition: form-data\r\n\r\nno name" + END,
        b"--b\r\nno colon in this header\r\n\r\nx" + END,
        b"--b\r\n" + b"X-H: y\r\n" * 100 + b"\r\nx" + END,
        b"--b\r\nX-H: " + b"y" * 100_000 + b"\r\n\r\nx" + END,
        b"".join(field(b"f%d" % number, b"x") for number in range(17)) + FILE + b"x" + END,
    ],
)
def test_a_broken_form_is_refused(body: bytes) -> None:
    assert fault_of(body) == "invalid_multipart"


def test_a_boundary_of_absurd_length_is_refused() -> None:
    assert fault_of(FILE, "multipart/form-data; boundary=" + "b" * 5000) == "invalid_multipart"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (field(b"purpose", b"batch") + b"--b--\r\n", "missing_required_parameter"),
        (FILE + b"x\r\n" + FILE + b"y" + END, "duplicate_parameter"),
        (field(b"purpose", b"batch") * 2 + FILE + b"x" + END, "duplicate_parameter"),
        (field(b"file", b"x") + b"--b--\r\n", "missing_filename"),
        (FILE.replace(b'"f"', b'""') + b"x" + END, "missing_filename"),
        (FILE.replace(b'"f"', b'".."') + b"x" + END, "missing_filename"),
        (FILE.replace(b'"f"', b'"a/"') + b"x" + END, "missing_filename"),
        (field(b"purpose", b"x" * 5000) + FILE + b"x" + END, "invalid_value"),
    ],
)
def test_a_form_that_is_not_one_named_file_is_refused(body: bytes, code: str) -> None:
    assert fault_of(body) == code


@given(name=st.text(max_size=80))
def test_a_cleaned_filename_never_has_a_folder_or_a_control_character(name: str) -> None:
    cleaned = clean_filename(name)
    assert cleaned not in {".", ".."}
    assert not set(cleaned) & {"/", "\\", "\x00", "\r", "\n"}


@given(body=st.binary(max_size=200))
def test_no_bytes_break_the_parser(body: bytes) -> None:
    received = bytearray()
    form = MultipartForm(KIND, received.extend)
    with suppress(InvalidRequestError):
        form.feed(FILE + body)
    assert len(received) <= len(body)

"""What an archive may bring into a folder."""

import io
import tarfile
from pathlib import Path

import pytest

from app.cli.archives import unpack
from app.cli.output import CommandError


def archive(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> io.BytesIO:
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(content), kind, "/etc/passwd"
            tar.addfile(member, io.BytesIO(content))
    found.seek(0)
    return found


def test_files_are_written_side_by_side(tmp_path: Path) -> None:
    unpack(archive(("a.json", b"{}"), ("b.safetensors", b"1")), tmp_path / "adapter")
    assert {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()} == {
        "a.json": b"{}",
        "b.safetensors": b"1",
    }


@pytest.mark.parametrize("name", ["../a", "/a", "b/a", ".."])
def test_nothing_is_written_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(CommandError, match="no plain file"):
        unpack(archive((name, b"1")), tmp_path / "adapter")
    assert [path.name for path in tmp_path.rglob("*")] == ["adapter"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_only_plain_files_are_taken(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(CommandError, match="no plain file"):
        unpack(archive(("a", b""), kind=kind), tmp_path / "adapter")
    assert not list((tmp_path / "adapter").iterdir())


def test_a_download_that_is_no_archive_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="incomplete"):
        unpack(io.BytesIO(b"no archive" * 100), tmp_path / "adapter")

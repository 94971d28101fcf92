import stat
from pathlib import Path

import psycopg
import pytest
import redis

from app.embedded.directories import end_leftovers, ensure_ours
from app.embedded.errors import UnsafeDirectoryError
from app.embedded.supervisor import embedded_services

GIVEN = {
    "DATABASE_URL": "postgresql://user@example.invalid/nlft",
    "BROKER_URL": "redis://example.invalid/0",
    "STORAGE_URL": "s3://bucket/prefix",
}


def test_starts_everything_when_nothing_is_given(tmp_path: Path) -> None:
    with embedded_services(tmp_path / "state", {"PATH": "/bin"}) as services:
        assert set(services.servers) == {"postgres", "valkey"}
        with psycopg.connect(services.environment["DATABASE_URL"]) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        with redis.Redis.from_url(services.environment["BROKER_URL"].replace("redis+socket", "unix")) as client:
            assert client.ping()
        assert services.environment["STORAGE_URL"] == (tmp_path / "state" / "storage").as_uri()
        assert set(services.environment) == set(GIVEN)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("given", "running"),
    [
        (["DATABASE_URL", "BROKER_URL", "STORAGE_URL"], set()),
        (["DATABASE_URL", "STORAGE_URL"], {"valkey"}),
        (["BROKER_URL"], {"postgres"}),
    ],
)
def test_each_variable_switches_its_own_part_off(tmp_path: Path, given: list[str], running: set[str]) -> None:
    environment = {name: GIVEN[name] for name in given}
    with embedded_services(tmp_path / "state", environment) as services:
        assert set(services.servers) == running
        assert {name: services.environment[name] for name in given} == environment
    assert (tmp_path / "state" / "postgres").exists() == ("postgres" in running)
    assert (tmp_path / "state" / "storage").exists() == ("STORAGE_URL" not in given)


def test_state_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    with pytest.raises(UnsafeDirectoryError, match="Other users can write"), embedded_services(tmp_path / "state", {}):
        pytest.fail("an unsafe directory was accepted")


def test_readable_state_directory_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    (tmp_path / "state").chmod(0o755)
    ensure_ours(tmp_path / "state")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o755


def test_no_leftovers_means_nothing_to_wait_for(tmp_path: Path) -> None:
    end_leftovers(tmp_path, seconds=0.1)

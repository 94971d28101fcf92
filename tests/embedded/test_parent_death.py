import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.embedded.directories import processes_inside
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.process import wait_until
from app.embedded.valkey import EmbeddedValkey
from tests.fixtures.servers import TEMPLATES

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the parent-death signal is Linux's")


@pytest.fixture
def parent(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "tests.embedded.parent", str(tmp_path), str(TEMPLATES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_servers_end_cleanly_when_their_parent_is_killed(parent: "subprocess.Popen[str]", tmp_path: Path) -> None:
    assert parent.stdout
    pids = json.loads(parent.stdout.readline())
    folders = [tmp_path / "postgres" / "data", tmp_path / "valkey" / "data"]
    assert pids["postgres"] in processes_inside(folders[0])
    assert pids["valkey"] in processes_inside(folders[1])

    parent.kill()

    assert wait_until(lambda: not any(processes_inside(folder) for folder in folders), seconds=20)
    assert "database system is shut down" in (tmp_path / "postgres" / "server.log").read_text()


def test_start_right_after_the_parent_was_killed(parent: "subprocess.Popen[str]", tmp_path: Path) -> None:
    assert parent.stdout
    parent.stdout.readline()
    parent.kill()
    parent.wait()
    with EmbeddedPostgres(tmp_path / "postgres") as postgres, EmbeddedValkey(tmp_path / "valkey") as valkey:
        assert postgres.is_running()
        assert valkey.is_running()

import os
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.embedded.process import wait_until
from tests.cli.live import COMMAND, Live, environment, live_service, processes_of


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_service(tmp_path_factory.mktemp("service")) as service:
        yield service


def answers(live: Live) -> bool:
    try:
        with urllib.request.urlopen(live.connection["base_url"].removesuffix("/v1") + "/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def child(live: Live, module: str) -> int:
    """Return the process id of the child that runs ``module``."""
    for pid in processes_of(live.state):
        if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return pid
    raise AssertionError(f"no child runs {module}")


def test_secrets_are_closed_and_kept(live: Live) -> None:
    names = ("connection.json", "environment.json", "api_key", "pepper", "api.log", "worker.log", "lock")
    assert {stat.S_IMODE((live.state / name).stat().st_mode) for name in names} == {0o600}
    assert stat.S_IMODE(live.state.stat().st_mode) == 0o700
    assert set(live.connection) == {"base_url", "api_key"}
    assert live.connection["api_key"] not in live.output


def test_second_start_is_refused_with_the_holder(live: Live) -> None:
    command = [*COMMAND, "up", "--state-dir", str(live.state), "--port", "0"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False, timeout=60)
    assert result.returncode == 1
    assert f"in use by process {live.process.pid}" in result.stderr
    assert "Traceback" not in result.stderr
    assert answers(live)


def test_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [*COMMAND, "up", "--state-dir", str(tmp_path / "state"), "--port", port]
        result = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False, timeout=60)
    assert result.returncode == 1
    assert f"port {port}" in result.stderr
    assert not (tmp_path / "state" / "connection.json").exists()


@pytest.mark.parametrize("module", ["app.cli.serve", "worker"])
def test_child_that_dies_is_started_again(live: Live, module: str) -> None:
    victim = child(live, module)
    os.kill(victim, signal.SIGKILL)
    assert wait_until(lambda: not Path(f"/proc/{victim}").exists(), seconds=10)
    assert wait_until(lambda: any(pid != victim for pid in _running(live, module)), seconds=30)
    assert wait_until(lambda: answers(live), seconds=60)


def _running(live: Live, module: str) -> list[int]:
    try:
        return [child(live, module)]
    except (AssertionError, OSError):
        return []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_everything_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with live_service(tmp_path) as live:
        first_key = live.connection["api_key"]
        assert live.stop(number) == 0
        assert processes_of(live.state) == []
        assert not (live.state / "connection.json").exists()
        assert not (live.state / "environment.json").exists()
        assert "database system is shut down" in (live.state / "postgres" / "server.log").read_text()
    if number == signal.SIGTERM:
        with live_service(tmp_path) as again:
            assert again.connection["api_key"] == first_key


def test_nothing_survives_a_kill_and_the_next_start_works(tmp_path: Path) -> None:
    with live_service(tmp_path) as live:
        live.stop(signal.SIGKILL)
        assert wait_until(lambda: processes_of(live.state) == [], seconds=30)
        assert "Cannot reach" in live.run("jobs", "list", status=1)
    (live.state / "connection.json").unlink()
    with live_service(tmp_path) as again:
        assert answers(again)


def test_exits_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen({[*COMMAND, 'up', '--port', '0', '--no-default-model', '--exit-with-parent']!r})\n"
        "time.sleep(600)\n"
    )
    state = tmp_path / "state"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=environment(NLFT_STATE_DIR=str(state)), stderr=subprocess.DEVNULL) as parent:
        try:
            assert wait_until((state / "connection.json").exists, seconds=90)
        finally:
            parent.kill()
    assert wait_until(lambda: processes_of(state) == [], seconds=60)
    assert not (state / "connection.json").exists()

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.core.settings import Settings
from tests.worker.previews.scripts import PREVIEW_COMMAND, scripted_request
from tests.worker.scripted_jobs import wait_until
from worker.locked_folder import take_folder
from worker.previews import host as host_module
from worker.previews.host import BROKEN, TIMEOUT, PreviewHost, Task
from worker.training.previews.protocol import CANCELLED


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(workspace_dir=tmp_path / "workspaces", worker_threads=1)


@pytest.fixture
def host(settings: Settings) -> Iterator[PreviewHost]:
    built = PreviewHost(settings, PREVIEW_COMMAND)
    yield built
    built.close()


def begin(host: PreviewHost, *, limit: float = 30.0, **script: Any) -> Task:
    task = Task(lambda _: scripted_request(**script), limit)
    host.submit(task)
    return task


def run(host: PreviewHost, *, limit: float = 30.0, **script: Any) -> Task:
    task = begin(host, limit=limit, **script)
    assert task.done.wait(30)
    return task


def answer(task: Task) -> dict[str, Any]:
    assert task.answer is not None, task.refusal
    found: dict[str, Any] = json.loads(task.answer)
    return found


def code(task: Task) -> str:
    assert task.refusal is not None
    return task.refusal.code


def folders(settings: Settings) -> list[Path]:
    return list(settings.workspaces.glob("preview-*"))


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_the_process_stays_warm_from_one_preview_to_the_next(host: PreviewHost) -> None:
    first, second = answer(run(host)), answer(run(host, garbage=3))
    assert first["pid"] == second["pid"]


def test_nothing_is_left_in_the_folder_after_an_answer(host: PreviewHost) -> None:
    folder = Path(answer(run(host))["folder"])
    assert [path for name in ("requests", "answers", "adapters") for path in (folder / name).iterdir()] == []


def test_a_refusal_is_handed_on_and_harms_nothing(host: PreviewHost) -> None:
    pid = answer(run(host))["pid"]
    assert code(run(host, refuse="out_of_memory")) == "out_of_memory"
    assert answer(run(host))["pid"] == pid


def test_a_cancelled_preview_ends_at_once_and_the_process_stays(host: PreviewHost) -> None:
    pid = answer(run(host))["pid"]
    task = begin(host, seconds=60)
    started = time.monotonic()
    task.cancelled.set()
    assert task.done.wait(10)
    assert (code(task), time.monotonic() - started < 2) == (CANCELLED, True)
    assert answer(run(host))["pid"] == pid


def test_a_process_that_does_not_hear_a_cancel_is_killed(host: PreviewHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "CANCEL_SECONDS", 0.2)
    pid = answer(run(host))["pid"]
    task = begin(host, seconds=60, deaf=True)
    task.cancelled.set()
    assert task.done.wait(10)
    assert code(task) == CANCELLED
    assert not is_alive(pid)
    assert answer(run(host))["pid"] != pid


def test_a_preview_that_takes_too_long_is_stopped(host: PreviewHost) -> None:
    assert code(run(host, limit=0.3, seconds=60)) == TIMEOUT
    assert answer(run(host))


def test_a_process_that_dies_breaks_its_preview_only(host: PreviewHost) -> None:
    assert code(run(host, die=1)) == BROKEN
    assert code(run(host, die=0)) == BROKEN
    assert answer(run(host))


def test_a_process_that_dies_while_idle_is_replaced(host: PreviewHost, settings: Settings) -> None:
    pid = answer(run(host))["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: folders(settings) == [], seconds=5)
    assert answer(run(host))["pid"] != pid


def test_a_request_that_cannot_be_filled_breaks_its_preview_only(host: PreviewHost) -> None:
    def fill(_: Path) -> bytes:
        raise OSError("the store is away")

    task = Task(fill, 5.0)
    host.submit(task)
    assert task.done.wait(10)
    assert code(task) == BROKEN
    assert answer(run(host))


def test_an_idle_process_ends_after_a_while(settings: Settings) -> None:
    host = PreviewHost(settings.model_copy(update={"preview_idle_seconds": 0.1}), PREVIEW_COMMAND)
    try:
        pid = answer(run(host))["pid"]
        wait_until(lambda: not is_alive(pid) and folders(settings) == [], seconds=5)
    finally:
        host.close()


def test_an_idle_process_makes_room_and_a_busy_one_stays(host: PreviewHost) -> None:
    assert host.reserve()
    pid = answer(run(host))["pid"]
    host.make_room()
    assert is_alive(pid)
    host.free()
    host.make_room()
    assert not is_alive(pid)
    assert answer(run(host))["pid"] != pid


def test_room_is_made_where_nothing_ever_ran(host: PreviewHost, settings: Settings) -> None:
    host.make_room()
    assert folders(settings) == []


def test_closing_leaves_neither_process_nor_folder(host: PreviewHost, settings: Settings) -> None:
    pid = answer(run(host))["pid"]
    host.close()
    assert not is_alive(pid)
    assert folders(settings) == []
    assert answer(run(host))["pid"] != pid


def test_folders_of_the_dead_are_removed_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    living, dead = (take_folder(tmp_path, "preview", ()) for _ in range(2))
    os.close(dead.descriptor)
    newest = take_folder(tmp_path, "preview", ())
    assert set(tmp_path.iterdir()) == {living.path, newest.path}
    for folder in (living, newest):
        folder.remove()
    assert list(tmp_path.iterdir()) == []

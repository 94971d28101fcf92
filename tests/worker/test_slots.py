import subprocess
import sys
from pathlib import Path

from worker.slots import take_slot


def test_slots_are_handed_out_once_and_come_back(tmp_path: Path) -> None:
    with take_slot(tmp_path, 2) as first, take_slot(tmp_path, 2) as second, take_slot(tmp_path, 2) as third:
        assert first is not None
        assert second is not None
        assert (first.number, second.number, third) == (0, 1, None)
    with take_slot(tmp_path, 2) as again:
        assert again is not None
        assert again.number == 0


def test_scratch_space_of_a_predecessor_is_emptied(tmp_path: Path) -> None:
    with take_slot(tmp_path, 1) as slot:
        assert slot is not None
        (slot.folder / "left").write_text("over")
    with take_slot(tmp_path, 1) as slot:
        assert slot is not None
        assert list(slot.folder.iterdir()) == []


def test_orphan_keeps_the_slot_of_its_dead_worker(tmp_path: Path) -> None:
    waiting = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"]
    with take_slot(tmp_path, 1) as slot:
        assert slot is not None
        orphan = subprocess.Popen(waiting, stdin=subprocess.PIPE, pass_fds=(slot.descriptor,))
    with take_slot(tmp_path, 1) as taken:
        assert taken is None
    orphan.communicate()
    with take_slot(tmp_path, 1) as free:
        assert free is not None

import os
from pathlib import Path

import pytest

from worker.outputs import list_checkpoint_files, list_outputs


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoints" / "step-000005"
    (folder / "rng").mkdir(parents=True)
    for name in ("manifest.json", "state.json", "rng/cpu"):
        (folder / name).write_text(name)
    return folder


def test_checkpoint_is_listed_with_its_folders(tmp_path: Path, checkpoint: Path) -> None:
    files = list_checkpoint_files(tmp_path, "checkpoints/step-000005")
    assert files == {name: checkpoint / name for name in ("manifest.json", "rng/cpu", "state.json")}


@pytest.mark.parametrize("path", ["..", "/etc", "checkpoints", "checkpoints/../..", "checkpoints/step-000005/rng", ""])
def test_checkpoint_outside_of_its_place_is_refused(tmp_path: Path, checkpoint: Path, path: str) -> None:
    with pytest.raises(ValueError, match="outside"):
        list_checkpoint_files(tmp_path, path)


@pytest.mark.parametrize("name", [".hidden", "a b", "-x", "rng/a\nb"])
def test_unexpected_names_are_refused(tmp_path: Path, checkpoint: Path, name: str) -> None:
    (checkpoint / name).write_text("x")
    with pytest.raises(ValueError, match="unexpected"):
        list_checkpoint_files(tmp_path, "checkpoints/step-000005")


def test_link_out_of_a_checkpoint_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    (checkpoint / "link").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="unexpected"):
        list_checkpoint_files(tmp_path, "checkpoints/step-000005")


def test_incomplete_checkpoint_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()
    with pytest.raises(ValueError, match="not complete"):
        list_checkpoint_files(tmp_path, "checkpoints/step-000005")


def test_only_regular_allow_listed_outputs_leave(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    for name in ("metrics.csv", "tokenizer.json", "payload.so"):
        (outputs / name).write_text(name)
    os.mkfifo(outputs / "manifest.json")
    (outputs / "README.md").symlink_to("/etc/passwd")
    assert [path.name for path in list_outputs(tmp_path)] == ["metrics.csv", "tokenizer.json"]

"""Kept scores are right or absent: whatever became of the files."""

from pathlib import Path

import numpy as np
import pytest

from tests.training.builders import RecordingObserver
from worker.training.building.scores import KeptScores
from worker.training.events import StageEvent

DIGESTS = [f"{number:064x}" for number in range(5)]


def scores_of(number: int) -> np.ndarray:
    return -np.linspace(0, number + 1, number + 2, dtype=np.float32) / 3


def opened(folder: Path, base: str = "base", precision: str = "float32 cpu") -> KeptScores:
    return KeptScores(folder, base, precision, RecordingObserver())


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The one part with the scores of all digests, in the folder of the test."""
    observer = RecordingObserver()
    scores = KeptScores(tmp_path, "base", "float32 cpu", observer)
    for number, digest in enumerate(DIGESTS):
        scores.keep(digest, scores_of(number))
    assert observer.of(StageEvent) == []
    scores.flush()
    scores.flush()
    (event,) = observer.of(StageEvent)
    assert event.summary == {"records": len(DIGESTS)}
    return tmp_path / event.path


def test_raw_float32_comes_back_to_the_bit(kept: Path, tmp_path: Path) -> None:
    scores = opened(tmp_path)
    for number, digest in enumerate(DIGESTS):
        found = scores.find(digest)
        assert found is not None
        assert found.dtype == np.float32
        assert found.tobytes() == scores_of(number).tobytes()
    assert scores.find("f" * 64) is None


@pytest.mark.parametrize("other", [("other base", "float32 cpu"), ("base", "bfloat16 cpu"), ("base", "float32 cuda")])
def test_scores_of_another_model_or_precision_are_not_taken(kept: Path, tmp_path: Path, other: tuple[str, str]) -> None:
    assert kept.exists()
    # Also where somebody put the file under the other model's name.
    foreign = opened(tmp_path, *other)
    target = tmp_path / foreign.folder / kept.name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(kept.read_bytes())
    assert [opened(tmp_path, *other).find(digest) for digest in DIGESTS] == [None] * len(DIGESTS)


def test_a_truncated_file_gives_nothing_wrong(kept: Path, tmp_path: Path) -> None:
    content = kept.read_bytes()
    for length in range(0, len(content), 41):
        kept.write_bytes(content[:length])
        check_all(opened(tmp_path))


def test_altered_bytes_give_nothing_wrong(kept: Path, tmp_path: Path) -> None:
    content = kept.read_bytes()
    for place in range(0, len(content), 17):
        kept.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        check_all(opened(tmp_path))


def check_all(scores: KeptScores) -> None:
    for number, digest in enumerate(DIGESTS):
        found = scores.find(digest)
        assert found is None or found.tobytes() == scores_of(number).tobytes()


def test_runs_that_score_other_texts_write_other_parts(tmp_path: Path) -> None:
    for half in (DIGESTS[:2], DIGESTS[2:]):
        scores = opened(tmp_path)
        for digest in half:
            scores.keep(digest, scores_of(int(digest, 16)))
        scores.flush()
    check = opened(tmp_path)
    assert all(check.find(digest) is not None for digest in DIGESTS)

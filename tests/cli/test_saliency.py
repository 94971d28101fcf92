"""``nlft saliency`` on records that lie in a file: no service is needed."""

import json
from pathlib import Path

import pytest

from tests.cli.live import Live

TOKEN = {
    "text": " 72", "id": 216, "base": 0.1, "frozen_base": None, "reference": 0.96, "judgment": None,
    "weight": 1.2, "class": "salient", "direction": "raise",
}  # fmt: skip
RECORD = {"example": {"file_line": 3, "correct": True}, "step": 0, "loss": 0.5, "weights_sum": 1.2, "tokens": [TOKEN]}


@pytest.fixture
def offline(tmp_path: Path) -> Live:
    absent = Live.__new__(Live)
    absent.state = tmp_path / "state"
    return absent


def write(folder: Path, *rows: object) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_records_are_drawn_without_a_service(offline: Live, tmp_path: Path) -> None:
    drawn = offline.run("saliency", write(tmp_path, RECORD, RECORD), "--figures", "--limit", "1")
    assert drawn.count("line 3") == 1
    assert " 72" in drawn
    assert "0.9600" in drawn


def test_records_are_printed_as_they_are(offline: Live, tmp_path: Path) -> None:
    assert offline.json("saliency", write(tmp_path, RECORD)) == [RECORD]


def test_rows_need_a_service_and_a_row_must_be_there(offline: Live, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "?"}], "response": "4", "reference": "4"}
    assert "nlft up" in offline.run("saliency", write(tmp_path, row), status=1)
    assert "no row 2" in offline.run("saliency", write(tmp_path, row), "--first", "2", status=1)
    assert "line 1" in offline.run("saliency", write(tmp_path, [1]), status=1)

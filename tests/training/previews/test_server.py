import io
import json
from pathlib import Path

import pytest

from tests.fixtures.tiny_models import TinyModel
from tests.training.previews.test_workbench import request
from worker.training.errors import ExitCode, TrainingCancelled
from worker.training.previews.link import PreviewLink
from worker.training.previews.protocol import CANCELLED, Answered, Refused, Reply, decode
from worker.training.previews.server import serve
from worker.training.previews.workbench import Workbench


class Parent(PreviewLink):
    """A parent that asks a few questions and is then gone."""

    def __init__(self, *numbers: int, cancelled: int | None = None) -> None:
        self.heard = io.BytesIO()
        super().__init__(self.heard)
        self._numbers = list(numbers)
        if cancelled is not None:
            self._cancelled.add(cancelled)

    def next(self) -> int:
        if not self._numbers:
            raise EOFError
        return self._numbers.pop(0)

    def replies(self) -> list[Reply]:
        return [decode(line) for line in self.heard.getvalue().splitlines()]


def ask(folder: Path, number: int, content: str) -> None:
    (folder / "requests").mkdir(exist_ok=True)
    (folder / "requests" / f"{number}.json").write_text(content)


def test_requests_are_answered_refused_and_dropped_in_turn(tmp_path: Path, tiny_model: TinyModel) -> None:
    model = tiny_model()
    ask(tmp_path, 1, request(model).model_dump_json())
    ask(tmp_path, 2, request(model, most_tokens=10).model_dump_json())
    ask(tmp_path, 3, request(model).model_dump_json())
    bad = {"messages": [{"role": "user", "content": "?"}], "response": "<|im_end|>", "reference": "4"}
    ask(tmp_path, 4, request(model, rows=[bad]).model_dump_json())
    parent = Parent(1, 2, 3, 4, cancelled=3)
    with pytest.raises(EOFError):
        serve(tmp_path, parent)
    first, *others = parent.replies()
    assert isinstance(first, Answered)
    assert len(json.loads((tmp_path / first.path).read_bytes())["data"]) == 6
    codes = [(reply.number, reply.code) for reply in others if isinstance(reply, Refused)]
    assert codes == [(2, "too_many_tokens"), (3, CANCELLED), (4, "invalid_examples")]
    assert isinstance(others[2], Refused)
    assert others[2].data is not None
    assert others[2].data["problems"][0]["path"] == "response"


@pytest.mark.parametrize(("error", "code"), [(MemoryError(), "out_of_memory"), (ZeroDivisionError(), "internal_error")])
def test_a_process_that_failed_oddly_says_so_and_ends(
    tmp_path: Path, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch, *, error: Exception, code: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Workbench, "answer", fail)
    ask(tmp_path, 1, request(tiny_model()).model_dump_json())
    parent = Parent(1)
    ended = {"out_of_memory": ExitCode.OUT_OF_MEMORY, "internal_error": ExitCode.INTERNAL}
    assert serve(tmp_path, parent) == ended[code]
    (reply,) = parent.replies()
    assert isinstance(reply, Refused)
    assert (reply.code, "ZeroDivision" in reply.message) == (code, False)


def test_the_link_hears_requests_and_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []
    monkeypatch.setattr("worker.training.previews.link.kill_own_group", lambda: ended.append(True))
    link = PreviewLink(io.BytesIO())
    link.listen(io.BytesIO(b"preview 7\nnonsense\ncancel 9\npreview x\npreview 8\n"))
    assert [link.next(), link.next()] == [7, 8]
    link.check(7)
    with pytest.raises(TrainingCancelled):
        link.check(9)
    assert ended == [True]

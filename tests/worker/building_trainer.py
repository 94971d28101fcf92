"""A trainer that builds rows as its script says: real stage files, real questions to its parent, scripted weights.

Keys of ``hyperparameters``: ``parts`` of the rollout stage, ``questions`` to ask, ``crash_marker`` (a path: the process
kills itself after building unless the file is there), ``stray`` and ``key`` (a path to name as a part, of this key),
``dataset`` (text of ``outputs/dataset.jsonl``).
"""

import os
import signal
import sys
from pathlib import Path

from tests.worker import scripted_trainer
from tests.worker.scripted_trainer import SCRIPT, WORKSPACE
from worker.training.building.keys import stage_keys
from worker.training.building.parts import PartStore, Rollout
from worker.training.data.reader import read_rows
from worker.training.events import CompletionRequest, MessageEvent, PhaseEvent, ResultEvent, StageEvent
from worker.training.parent_link import ParentLink
from worker.training.spec import SPEC_FILE, TRAINING_FILE, TrainingSpec


def make_parts(link: ParentLink) -> None:
    link.emit(PhaseEvent("rollout"))
    spec = TrainingSpec.model_validate_json((WORKSPACE / SPEC_FILE).read_bytes())
    with (WORKSPACE / TRAINING_FILE).open("rb") as file:
        key = stage_keys(spec, read_rows(file))["rollout"]
    parts = PartStore(WORKSPACE, "rollout", key, Rollout)
    made = 0
    for part in range(SCRIPT["parts"]):
        if parts.load(part) is None:
            path = parts.save(part, [Rollout(1, part, f"It is {part}.", finished=True, tokens=4)])
            link.emit(StageEvent("rollout", key, part, path))
            made += 1
    link.emit(MessageEvent("info", f"made {made} parts"))


def ask(link: ParentLink) -> None:
    link.emit(PhaseEvent("judging"))

    def look_up(_done: int, _total: int) -> None:
        if asked := link.stop_requested():
            sys.exit(14 if asked == "cancel" else 13)

    questions = range(SCRIPT["questions"])
    requests = [CompletionRequest(n, "judge", [{"role": "user", "content": f"Question {n}"}]) for n in questions]
    answers = link.complete(requests, look_up)
    link.emit(MessageEvent("info", "answers: " + " ".join(answer.text or answer.code or "" for answer in answers)))


def crash_once(marker: Path) -> None:
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    link = ParentLink.from_environment(os.environ)
    if "parts" in SCRIPT:
        make_parts(link)
    if "stray" in SCRIPT:
        link.emit(StageEvent("rollout", SCRIPT.get("key", "k"), 0, SCRIPT["stray"]))
    if "questions" in SCRIPT:
        ask(link)
    if "crash_marker" in SCRIPT:
        crash_once(Path(SCRIPT["crash_marker"]))
    scripted_trainer.save_outputs(bytes(32))
    if "dataset" in SCRIPT:
        (WORKSPACE / "outputs" / "dataset.jsonl").write_text(SCRIPT["dataset"])
    link.emit(ResultEvent(trained_tokens=40, steps=1, metrics={"train_loss": 0.25}))


if __name__ == "__main__":
    main()

"""Results: one compact record a run in a file that is committed, everything else in the work folder.

A run is an arm on a data seed. Its record carries the fingerprint of the arm's settings and of the base model, so a
changed arm is run anew. Several runners may work at once: a run in progress is locked.
"""

from __future__ import annotations

import fcntl
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

RUNS_FILE = "runs.jsonl"


class Record(msgspec.Struct, frozen=True):
    """What is kept of a run.

    Attributes:
        table: The first table that shows the arm.
        arm: Name of the arm.
        seed: Data seed: questions, rollouts, first adapter weights and order.
        fingerprint: Of the arm's settings and the base model.
        base: First digits of the base model's digest.
        code: First digits of the training library's digest, see ``setting.code_digest``.
        rows: Different rows trained on.
        right_rows: Those whose response is right.
        steps: Optimizer steps made.
        accuracy: Share of the test problems answered rightly, in [0, 1].
        answers: A 1 or 0 for each test problem.
        by_family: Accuracy by family of problems.
        unfinished: Answers that were cut off.
        loss: Mean training loss of the first, middle and last ten steps.
        train_cpu_seconds: Of training, loading and scoring.
        answer_cpu_seconds: Of answering the test problems.
        settings: Of the arm.
        guidance: Gain of the guidance check in nats per token; None: the method makes none.
    """

    table: str
    arm: str
    seed: int
    fingerprint: str
    base: str
    code: str
    rows: int
    right_rows: int
    steps: int
    accuracy: float
    answers: str
    by_family: dict[str, float]
    unfinished: int
    loss: dict[str, float]
    train_cpu_seconds: float
    answer_cpu_seconds: float
    settings: dict[str, Any]
    guidance: float | None = None


class Store:
    """Records in ``results``, one line each; bulk and locks in ``work``."""

    def __init__(self, results: Path, work: Path) -> None:
        self._file = results / RUNS_FILE
        self._work = work

    def records(self) -> list[Record]:
        """Return all records, of a run that was made anew the latest only, in the order they were made."""
        if not self._file.is_file():
            return []
        lines = self._file.read_bytes().splitlines()
        records = [msgspec.json.decode(line, type=Record) for line in lines if line.strip()]
        latest = {(record.arm, record.seed, record.base): index for index, record in enumerate(records)}
        return [records[index] for index in sorted(latest.values())]

    def is_finished(self, arm: str, seed: int, fingerprint: str) -> bool:
        """Return whether this very run has a record."""
        wanted = (arm, seed, fingerprint)
        return any((record.arm, record.seed, record.fingerprint) == wanted for record in self.records())

    def add(self, record: Record, answers: Sequence[dict[str, Any]], details: dict[str, Any]) -> None:
        """Keep ``record``; ``answers`` and ``details`` go to the work folder."""
        bulk = self._work / "runs" / f"{record.arm}-{record.seed}.json"
        bulk.parent.mkdir(parents=True, exist_ok=True)
        kept = {"record": msgspec.to_builtins(record), "details": details, "answers": list(answers)}
        bulk.write_text(json.dumps(kept, indent=1, ensure_ascii=False), encoding="utf-8")
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("ab") as file:
            file.write(msgspec.json.encode(record) + b"\n")

    @contextmanager
    def claim(self, arm: str, seed: int) -> Iterator[bool]:
        """Yield whether this process may do the run; False while another process does it."""
        lock = self._work / "locks" / f"{arm}-{seed}"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

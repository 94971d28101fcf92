"""Scores what a run's rows lack of their cached passes: each text once, whatever rows and passes it stands in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.training.engine.score_cache import sequence_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from worker.training.engine.prepared import PreparedExample
    from worker.training.engine.score_cache import ScoreStore
    from worker.training.engine.scoring import Scorer
    from worker.training.types import ScoringPass, TokenSequence


@dataclass(frozen=True, slots=True)
class CacheFill:
    """Texts whose scores were ``recalled``, and those that were ``scored``."""

    recalled: int
    scored: int


class CacheFiller:
    """Fills the cached ``passes``, all of one kind, of ``examples``.

    Args:
        scorer: Runs the forward passes.
        examples: Receive the scores that they lack.
        passes: At least one.
        store: Is asked first and told what was scored; only for scores of the bare base model.
    """

    def __init__(
        self,
        scorer: Scorer,
        examples: Sequence[PreparedExample],
        passes: Sequence[ScoringPass],
        store: ScoreStore | None,
    ) -> None:
        self._scorer = scorer
        self._store = store
        self._kind = passes[0]
        self._places: list[tuple[PreparedExample, str, str]] = []
        self._texts: dict[str, TokenSequence] = {}
        self._known: dict[str, NDArray[np.float32]] = {}
        for example in examples:
            for scoring_pass in passes:
                sequence = example.rendered.sequences.get(scoring_pass.sequence)
                if sequence is not None and scoring_pass.name not in example.cached:
                    digest = sequence_digest(sequence)
                    self._places.append((example, scoring_pass.name, digest))
                    self._texts[digest] = sequence

    def fill(self, report: Callable[[int, int], None]) -> CacheFill:
        """Give the examples their scores; ``report`` takes the texts done and in all, between micro-batches.

        Raises:
            DeviceOutOfMemoryError: A single text does not fit the device.
        """
        self._recall()
        recalled = len(self._known)
        if recalled < len(self._texts):
            try:
                sizes = [len(text.input_ids) for text in self._texts.values()]
                self._scorer.memory.fit(lambda: self._score(report), sizes, self._group, lambda: None)
            finally:
                # What was scored before an early end is not scored again either.
                if self._store is not None:
                    self._store.flush()
        for example, name, digest in self._places:
            example.cached[name] = self._known[digest]
        return CacheFill(recalled, len(self._texts) - recalled)

    def _recall(self) -> None:
        for digest, text in self._texts.items():
            found = None if self._store is None else self._store.find(digest)
            if found is not None and len(found) == len(text.scored):
                self._known[digest] = found

    def _rest(self) -> list[str]:
        return [digest for digest in self._texts if digest not in self._known]

    def _group(self) -> list[list[int]]:
        return self._scorer.group([self._texts[digest] for digest in self._rest()])

    def _score(self, report: Callable[[int, int], None]) -> None:
        rest = self._rest()
        for group in self._group():
            digests = [rest[index] for index in group]
            found = self._scorer.score_texts([self._texts[digest] for digest in digests], self._kind)
            for digest, logprobs in zip(digests, found, strict=True):
                self._known[digest] = logprobs
                if self._store is not None:
                    self._store.keep(digest, logprobs)
            report(len(self._known), len(self._texts))

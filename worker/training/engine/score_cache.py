"""Scores by content: what a text is, where its scores may be kept, and a run's own in one file of its checkpoints."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from worker.training.engine.prepared import PreparedExample
    from worker.training.types import ScoringPass, TokenSequence

_OF = "of"


class ScoreStore(Protocol):
    """Raw log-probabilities, float32 [n], of texts under one model, by the texts' digests; weights follow from them."""

    def find(self, digest: str) -> NDArray[np.float32] | None:
        """Return the log-probabilities of a text, None where they are not known."""
        ...

    def keep(self, digest: str, logprobs: NDArray[np.float32]) -> None:
        """Take in the log-probabilities of a text."""
        ...

    def flush(self) -> None:
        """Put what was taken in where others find it."""
        ...


def sequence_digest(sequence: TokenSequence) -> str:
    """Return a digest of the tokens of ``sequence`` and of which of them are scored."""
    head = f"{len(sequence.input_ids)} {len(sequence.scored)}\n".encode()
    ids, scored = (np.ascontiguousarray(part, dtype="<i4").tobytes() for part in (sequence.input_ids, sequence.scored))
    return hashlib.sha256(head + ids + scored).hexdigest()


def save_cached(path: Path, examples: Sequence[PreparedExample], passes: Sequence[ScoringPass]) -> None:
    """Write the cached ``passes`` of ``examples`` to ``path``."""
    nothing = np.zeros(0, dtype=np.float32)
    arrays = {
        scoring_pass.name: np.concatenate([nothing, *(own.cached.get(scoring_pass.name, nothing) for own in examples)])
        for scoring_pass in passes
        if scoring_pass.cached
    }
    unfinished = path.with_suffix(".unfinished")
    save_file(arrays, unfinished, metadata={_OF: _digest_of(examples, passes)})
    unfinished.replace(path)


def load_cached(path: Path, examples: Sequence[PreparedExample], passes: Sequence[ScoringPass]) -> bool:
    """Give ``examples`` the cached ``passes`` in ``path``; False where it holds none, or those of other texts."""
    cached = [scoring_pass for scoring_pass in passes if scoring_pass.cached]
    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get(_OF) != _digest_of(examples, passes):
                return False
            arrays = {scoring_pass.name: file.get_tensor(scoring_pass.name) for scoring_pass in cached}
    except (OSError, SafetensorError):
        return False
    for scoring_pass in cached:
        start = 0
        for example in examples:
            sequence = example.rendered.sequences.get(scoring_pass.sequence)
            if sequence is not None:
                end = start + len(sequence.scored)
                example.cached[scoring_pass.name] = arrays[scoring_pass.name][start:end]
                start = end
    return True


def _digest_of(examples: Sequence[PreparedExample], passes: Sequence[ScoringPass]) -> str:
    digest = hashlib.sha256()
    for scoring_pass in passes:
        if scoring_pass.cached:
            digest.update(f"{scoring_pass}\n".encode())
            for example in examples:
                sequence = example.rendered.sequences.get(scoring_pass.sequence)
                digest.update(b"-" if sequence is None else sequence_digest(sequence).encode())
    return digest.hexdigest()

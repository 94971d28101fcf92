"""Samples responses from the base model for rows that have none."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from worker.training.building.parts import Rollout
from worker.training.building.stages import OnDone, Part
from worker.training.engine.memory import is_out_of_memory, release_memory
from worker.training.errors import DeviceOutOfMemoryError
from worker.training.generation import Decoding, Generated, generate

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from worker.training.data.rendering import ModelRenderer
    from worker.training.generation import Progress
    from worker.training.model.base_model import LoadedModel
    from worker.training.spec import RolloutSettings

PART_RESPONSES = 256
"""About as many responses make a part: what a killed run repeats at most."""


def plan_rollouts(
    lines: Sequence[int],
    prompts: Sequence[NDArray[np.int32]],
    loaded: LoadedModel,
    renderer: ModelRenderer,
    *,
    settings: RolloutSettings,
    seed: int,
    first_index: int = 0,
) -> list[Part[Rollout]]:
    """Return the parts of the rollout: questions of similar length together, each part with draws of its own.

    Args:
        lines: Of the rows, one per prompt.
        prompts: Token ids, each [T].
        loaded: The base model.
        renderer: Of its tokenizer.
        settings: How to sample.
        seed: Of the draws.
        first_index: Of the first response to a question.
    """
    longest_first = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)
    # Whole batches, so that no part ends in a small one.
    batch = max(1, settings.batch_size // settings.n)
    size = batch * max(1, PART_RESPONSES // (batch * settings.n))
    sampler = _Sampler(loaded, renderer)
    indices = range(first_index, first_index + settings.n)
    parts = []
    for number, start in enumerate(range(0, len(prompts), size)):
        chosen = longest_first[start : start + size]
        decoding = Decoding(
            settings.max_new_tokens,
            settings.batch_size,
            temperature=settings.temperature,
            top_p=settings.top_p,
            samples=settings.n,
            seed=_part_seed(seed, number),
            context_length=loaded.context_length,
        )
        expected = tuple((lines[index], sample) for index in chosen for sample in indices)
        make = partial(_sample, expected, [prompts[index] for index in chosen], sampler, decoding)
        parts.append(Part(expected, make))
    return parts


def answer_greedily(
    prompts: Sequence[NDArray[np.int32]],
    loaded: LoadedModel,
    renderer: ModelRenderer,
    *,
    max_new_tokens: int,
    batch_size: int,
    on_progress: Progress,
) -> list[tuple[str, bool]]:
    """Return the likeliest answer to each prompt, and whether it came to its end within ``max_new_tokens``."""
    decoding = Decoding(max_new_tokens, batch_size, context_length=loaded.context_length)
    answers = _Sampler(loaded, renderer).generate(prompts, decoding, on_progress)
    return [(decode(answer, renderer), answer.is_finished) for answer in answers]


def decode(answer: Generated, renderer: ModelRenderer) -> str:
    """Return the text of an answer, without special tokens, outer white space and NUL, which no dataset may hold."""
    text = str(renderer.tokenizer.decode(answer.ids, skip_special_tokens=True))
    return text.replace("\x00", "").strip()


def _sample(
    expected: Sequence[tuple[int, int]],
    prompts: Sequence[NDArray[np.int32]],
    sampler: _Sampler,
    decoding: Decoding,
    on_done: OnDone,
) -> list[Rollout]:
    answers = sampler.generate(prompts, decoding, lambda done, _total: on_done(done))
    return [
        Rollout(line, index, decode(answer, sampler.renderer), answer.is_finished, len(answer.ids))
        for (line, index), answer in zip(expected, answers, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Sampler:
    """A base model that answers prompts in its chat format."""

    loaded: LoadedModel
    renderer: ModelRenderer

    def generate(
        self, prompts: Sequence[NDArray[np.int32]], decoding: Decoding, on_progress: Progress
    ) -> list[Generated]:
        """Return the answers, in smaller batches where memory does not suffice."""
        stop_ids = frozenset({self.renderer.end_of_turn_id, int(self.loaded.tokenizer.eos_token_id)})
        while True:
            try:
                return generate(self.loaded.model, prompts, stop_ids, decoding, on_progress=on_progress)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler: the traceback holds the tensors of the failed batch alive.
            release_memory()
            if decoding.batch_size <= decoding.samples:
                raise DeviceOutOfMemoryError(
                    f"{decoding.samples} responses to one question do not fit the memory of {self.loaded.device}; "
                    "lower rollout.n or rollout.max_new_tokens, or take a smaller base model"
                )
            decoding = replace(decoding, batch_size=max(decoding.samples, decoding.batch_size // 2))


def _part_seed(seed: int, part: int) -> int:
    """Return a seed that no other part, and no neighbouring seed's part, has."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{part}".encode()).digest()[:7])

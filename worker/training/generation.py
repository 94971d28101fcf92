"""Generates answers in batches: left padding, key-value cache, and rows that are done leave the batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from worker.training.data.beginnings import count_common

_KEEP_FULL_SHARE = 0.75
_LEAST_COMMON = 64  # tokens; for fewer, one more pass over the weights costs what it saves
_WIDEST_NUCLEUS = 1024  # sorting the whole vocabulary costs more than a small model's forward pass


@dataclass(frozen=True, slots=True)
class Decoding:
    """How to choose tokens.

    Attributes:
        max_new_tokens: Longest answer in tokens.
        batch_size: Answers generated at a time.
        temperature: 0 takes the likeliest token; else logits are divided by it and a token is drawn.
        top_p: Draw from the fewest likeliest tokens that hold this much probability (nucleus sampling,
            https://arxiv.org/abs/1904.09751); 1 draws from all.
        samples: Answers to each prompt; its keys and values are computed once for all of them.
        seed: Of the draws. The same seed, prompts and batch size give the same answers.
        context_length: Longest prompt and answer together in tokens; 0 is no limit. A prompt that fills it gets an
            empty answer.
    """

    max_new_tokens: int
    batch_size: int = 32
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    seed: int = 0
    context_length: int = 0


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer's token ids without its end of turn; ``is_finished`` False means that the limit cut it off."""

    ids: list[int]
    is_finished: bool


Progress = Callable[[int, int], None]


def generate(
    model: PreTrainedModel,
    prompts: Sequence[NDArray[np.int32]],
    stop_ids: frozenset[int],
    decoding: Decoding,
    *,
    on_progress: Progress | None = None,
) -> list[Generated]:
    """Return the answers to each prompt, ``samples`` of them, in the order of the prompts.

    Prompts of similar length share a batch, and what all of it begin with is computed once. Weights are used as they
    are: an active adapter takes part.

    Args:
        model: A decoder-only model in eval mode.
        prompts: Token ids, each [T].
        stop_ids: Tokens that end an answer.
        decoding: How to choose tokens.
        on_progress: Called with answers done and answers in all after every token; may raise to give up.
    """
    sampler = torch.Generator(device=model.device).manual_seed(decoding.seed)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)
    answers: dict[int, list[Generated]] = {}
    together = max(1, decoding.batch_size // decoding.samples)
    for start in range(0, len(order), together):
        chosen = order[start : start + together]
        batch = _Batch(model, [prompts[index] for index in chosen], stop_ids, decoding, sampler)
        for _ in batch.steps():
            if on_progress:
                done = len(answers) * decoding.samples + batch.done
                on_progress(done, len(prompts) * decoding.samples)
        answers.update(zip(chosen, _in_groups(batch.answers(), decoding.samples), strict=True))
    return [answer for index in range(len(prompts)) for answer in answers[index]]


class _Batch:
    """One batch in flight. ``alive`` maps rows of the tensors to answers; rows that are done are dropped together."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[NDArray[np.int32]],
        stop_ids: frozenset[int],
        decoding: Decoding,
        sampler: torch.Generator,
    ) -> None:
        self._model = model
        self._stop_ids = stop_ids
        self._decoding = decoding
        self._sampler = sampler
        count = len(prompts) * decoding.samples
        self._ids: list[list[int]] = [[] for _ in range(count)]
        self._finished = [False] * count
        self._alive = list(range(count))
        common = _count_common(prompts) if _keeps_all_tokens(model) else 0  # C
        self._common = torch.from_numpy(prompts[0][:common]).long().to(model.device).unsqueeze(0)  # [1, C]
        self._tokens, mask = _left_padded([prompt[common:] for prompt in prompts], model.device)  # [B, T - C] each
        self._mask = torch.cat([mask.new_ones(len(prompts), common), mask], 1)  # [B, T]
        self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)[:, common:]  # [B, T - C]

    @property
    def done(self) -> int:
        """How many answers have ended."""
        return sum(self._finished)

    def steps(self) -> Iterator[None]:
        """Extend every unfinished answer by a token per step until all are done or full."""
        cache = None
        for step in range(self._most_new_tokens()):
            with torch.inference_mode():
                if step == 0 and self._common.shape[1]:
                    cache = self._compute_common()
                output = self._model(
                    input_ids=self._tokens,
                    attention_mask=self._mask,
                    position_ids=self._positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=_last_place(self._tokens),
                )
                logits, cache = output.logits[:, -1], output.past_key_values  # [B, V]
                if step == 0 and self._decoding.samples > 1:
                    logits = self._repeat(logits, cache)
                chosen = self._choose(logits)  # [B]
            self._record(chosen.tolist())
            yield
            keep = [row for row, answer in enumerate(self._alive) if not self._finished[answer]]
            if not keep:
                return
            self._extend(chosen)
            if len(keep) <= _KEEP_FULL_SHARE * len(self._alive):
                self._drop_all_but(keep, cache)

    def answers(self) -> list[Generated]:
        """Return the answers in the order of the prompts."""
        return [Generated(ids, finished) for ids, finished in zip(self._ids, self._finished, strict=True)]

    def _most_new_tokens(self) -> int:
        if not self._decoding.context_length:
            return self._decoding.max_new_tokens
        return min(self._decoding.max_new_tokens, self._decoding.context_length - self._mask.shape[1])

    def _compute_common(self) -> DynamicCache:
        """Return the keys and values of what all prompts begin with, for each of them."""
        output = self._model(input_ids=self._common, use_cache=True, logits_to_keep=_last_place(self._common))
        cache: DynamicCache = output.past_key_values
        cache.batch_repeat_interleave(len(self._tokens))
        return cache

    def _choose(self, logits: Tensor) -> Tensor:
        """Return the next token of each row [B] from logits [B, V]."""
        if self._decoding.temperature == 0:
            return logits.argmax(-1)
        probabilities = (logits.float() / self._decoding.temperature).softmax(-1)
        if self._decoding.top_p < 1:
            probabilities = _nucleus(probabilities, self._decoding.top_p)
        return torch.multinomial(probabilities, 1, generator=self._sampler).squeeze(1)

    def _repeat(self, logits: Tensor, cache: DynamicCache) -> Tensor:
        """Let every prompt of the batch go on in as many rows as it has samples; return their logits."""
        samples = self._decoding.samples
        cache.batch_repeat_interleave(samples)
        self._mask, self._positions = (t.repeat_interleave(samples, 0) for t in (self._mask, self._positions))
        return logits.repeat_interleave(samples, 0)

    def _record(self, tokens: list[int]) -> None:
        for answer, token in zip(self._alive, tokens, strict=True):
            if token in self._stop_ids:
                self._finished[answer] = True
            elif not self._finished[answer]:
                self._ids[answer].append(token)

    def _extend(self, chosen: Tensor) -> None:
        self._tokens = chosen.unsqueeze(1)  # [B, 1]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(chosen), 1)], 1)
        self._positions = self._positions[:, -1:] + 1

    def _drop_all_but(self, rows: list[int], cache: DynamicCache) -> None:
        index = torch.tensor(rows, device=self._tokens.device)
        cache.batch_select_indices(index)
        self._tokens, self._mask, self._positions = (
            tensor[index] for tensor in (self._tokens, self._mask, self._positions)
        )
        self._alive = [self._alive[row] for row in rows]


def _in_groups(answers: Sequence[Generated], size: int) -> list[list[Generated]]:
    return [list(answers[start : start + size]) for start in range(0, len(answers), size)]


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Return ``probabilities`` [B, V] with 0 outside the fewest likeliest tokens that hold ``top_p``, not rescaled."""
    for width in (min(_WIDEST_NUCLEUS, probabilities.shape[1]), probabilities.shape[1]):
        likeliest, places = probabilities.topk(width)  # [B, width], falling
        before = likeliest.cumsum(1) - likeliest
        if width == probabilities.shape[1] or bool((before[:, -1] >= top_p).all()):
            break
    return torch.zeros_like(probabilities).scatter_(1, places, likeliest.where(before < top_p, 0.0))


def _count_common(prompts: Sequence[NDArray[np.int32]]) -> int:
    """Return how many tokens all ``prompts`` begin with alike, and go on behind; 0 where it is not worth a pass."""
    common = min(count_common(*prompts), *(len(prompt) - 1 for prompt in prompts))
    return common if len(prompts) > 1 and common >= _LEAST_COMMON else 0


def _keeps_all_tokens(model: PreTrainedModel) -> bool:
    """Return whether every layer sees all tokens: the padding behind a beginning would take up room in a window."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def _last_place(tokens: Tensor) -> Tensor:
    """Return the last token's index [1]; a plain number makes a strided view, for which the head is copied."""
    return torch.tensor([tokens.shape[1] - 1], device=tokens.device)


def _left_padded(prompts: Sequence[NDArray[np.int32]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask, int64 [B, T], the prompts at the right edge; padding is never looked at."""
    length = max(map(len, prompts))
    ids = np.zeros((len(prompts), length), np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = prompt
        mask[row, length - len(prompt) :] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)

"""Responses sampled in batches over responses sampled one by one, with the product's own rollout stage."""

from __future__ import annotations

from bench.rollouts import BATCHED, ONE_BY_ONE, load, measure, read_prompts
from bench.trainer.points import QUESTIONS, default_model

# Enough for an answer to these questions; the untrained model would go on to any limit.
_LONGEST = {"max_new_tokens": 64}
_QUESTIONS = 16


def measure_ratios(repeats: int) -> list[float]:
    """Return tokens a second batched over one by one, in turn; every repetition asks another single question."""
    loaded, renderer = load(default_model())
    prompts = read_prompts(QUESTIONS, renderer, _QUESTIONS)
    one_by_one, batched = (settings.model_copy(update=_LONGEST) for settings in (ONE_BY_ONE, BATCHED))
    ratios = []
    for index in range(repeats):
        single = measure(prompts[index % _QUESTIONS :][:1], loaded, renderer, one_by_one)
        ratios.append(measure(prompts, loaded, renderer, batched) / single)
    return ratios

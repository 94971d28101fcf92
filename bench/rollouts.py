"""Tokens a second of rollouts as a job samples them, over those of sampling one response at a time.

    python -m bench.rollouts MODEL_FOLDER QUESTIONS.jsonl

QUESTIONS has one object a line with a ``question``, as GSM8K does. Both sides draw with the same settings from the same
model on one thread; the opponent answers fewer questions, since it is slow.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.trainer.pace import now
from worker.training.building.rollout import plan_rollouts
from worker.training.data.examples import Message
from worker.training.data.rendering import ModelRenderer
from worker.training.engine.runtime import configure_runtime
from worker.training.model.base_model import LoadedModel, load_base_model
from worker.training.model.model_folder import model_digest
from worker.training.spec import BaseModelRef, RolloutSettings, RuntimeSettings

BATCHED = RolloutSettings(n=4, batch_size=64)
ONE_BY_ONE = RolloutSettings(n=1, batch_size=1)


def measure(
    prompts: Sequence[NDArray[np.int32]], loaded: LoadedModel, renderer: ModelRenderer, settings: RolloutSettings
) -> float:
    """Return the tokens sampled per second (of CPU time, on a CPU), ends of turn included."""
    lines = range(1, len(prompts) + 1)
    parts = plan_rollouts(lines, prompts, loaded, renderer, settings=settings, seed=0)
    started = now(loaded.device.type)
    rollouts = [rollout for part in parts for rollout in part.make(lambda _done: None)]
    seconds = now(loaded.device.type) - started
    tokens = sum(rollout.tokens + rollout.finished for rollout in rollouts)
    return tokens / seconds


def load(model: Path) -> tuple[LoadedModel, ModelRenderer]:
    """Return the base model in the folder ``model`` on one thread, and what renders for it."""
    runtime = RuntimeSettings(device="auto", threads=1)
    configure_runtime(runtime, seed=0)
    ref = BaseModelRef(name=model.name, path=str(model), digest=model_digest(model))
    loaded = load_base_model(ref, runtime)
    return loaded, ModelRenderer(loaded.tokenizer)


def read_prompts(questions: Path, renderer: ModelRenderer, count: int) -> list[NDArray[np.int32]]:
    """Return the rendered first ``count`` questions of a file."""
    lines = questions.read_text(encoding="utf-8").splitlines()[:count]
    return [renderer.prompt([Message("user", json.loads(line)["question"])]) for line in lines]


def main() -> None:
    """Measure both ways and print their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of the base model")
    parser.add_argument("questions", type=Path)
    parser.add_argument("--batched", type=int, default=32, help="questions of the batched side")
    parser.add_argument("--single", type=int, default=8, help="questions of the opponent, the first ones of the file")
    options = parser.parse_args()
    loaded, renderer = load(options.model)
    prompts = read_prompts(options.questions, renderer, options.batched)
    single = measure(prompts[: options.single], loaded, renderer, ONE_BY_ONE)
    batched = measure(prompts, loaded, renderer, BATCHED)
    print(f"one by one {single:.1f} tokens/s, batched {batched:.1f} tokens/s")
    print(f"ratio {batched / single:.1f}")


if __name__ == "__main__":
    main()

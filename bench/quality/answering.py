"""Generates answers: greedy ones to be graded, and drawn ones to train on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.quality.setting import EVALUATION, LONGEST_ANSWER, TRAINING, messages
from worker.training.data.examples import Message, NLFTExample
from worker.training.data.rendering import ModelRenderer
from worker.training.engine.runtime import configure_runtime
from worker.training.evaluation import evaluate_generation
from worker.training.generation import Decoding, generate
from worker.training.model.adapter import attach_adapter, load_adapter
from worker.training.model.base_model import load_base_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from examples.word_problems.families import Problem
    from worker.training.evaluation import GradedAnswer
    from worker.training.model.base_model import LoadedModel
    from worker.training.spec import BaseModelRef, LoraSettings

_BATCH = 64


def load_for_answers(base: BaseModelRef, adapter: tuple[Path, LoraSettings] | None = None) -> LoadedModel:
    """Return ``base`` with an adapter (its folder and settings) as the service evaluates it: unmerged, in bfloat16."""
    configure_runtime(TRAINING, seed=0)  # the same whatever this process did before
    loaded = load_base_model(base, TRAINING)
    if adapter is None:
        return loaded
    folder, settings = adapter
    adapted = attach_adapter(loaded.model, settings, base_model_name=base.name, seed=0)
    load_adapter(adapted, folder)
    return loaded


def grade(loaded: LoadedModel, problems: Sequence[Problem], questions: Sequence[str] = ()) -> tuple[GradedAnswer, ...]:
    """Return the model's greedy answers to ``problems``, graded; ``questions`` replace the problems' own texts."""
    texts = questions or [problem.question for problem in problems]
    rows = [NLFTExample(_chat(text), reference=problem.solution) for text, problem in zip(texts, problems, strict=True)]
    return evaluate_generation(loaded, ModelRenderer(loaded.tokenizer), rows, EVALUATION).answers


def sample(loaded: LoadedModel, questions: Sequence[str], *, temperature: float, seed: int) -> list[str]:
    """Return one drawn answer to each question; one that does not end is cut off."""
    renderer = ModelRenderer(loaded.tokenizer)
    prompts = [renderer.prompt(_chat(question)) for question in questions]
    decoding = Decoding(LONGEST_ANSWER, _BATCH, temperature=temperature, seed=seed)
    stop_ids = frozenset({renderer.end_of_turn_id, int(loaded.tokenizer.eos_token_id)})
    answers = generate(loaded.model, prompts, stop_ids, decoding)
    return [str(loaded.tokenizer.decode(answer.ids, skip_special_tokens=True)).strip() for answer in answers]


def _chat(question: str) -> list[Message]:
    return [Message(turn["role"], turn["content"]) for turn in messages(question)]  # type: ignore[arg-type]

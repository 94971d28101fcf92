"""Generates answers: greedy ones to be graded, and drawn ones to train on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.quality.setting import messages
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

    from bench.quality.setting import Setting
    from examples.word_problems.families import Problem
    from worker.training.evaluation import GradedAnswer
    from worker.training.model.base_model import LoadedModel
    from worker.training.spec import BaseModelRef, LoraSettings


def load_for_answers(
    base: BaseModelRef, setting: Setting, adapter: tuple[Path, LoraSettings] | None = None
) -> LoadedModel:
    """Return ``base`` with an adapter (its folder and settings) as the service evaluates it: unmerged."""
    configure_runtime(setting.runtime, seed=0)  # the same whatever this process did before
    loaded = load_base_model(base, setting.runtime)
    if adapter is None:
        return loaded
    folder, settings = adapter
    adapted = attach_adapter(loaded.model, settings, base_model_name=base.name, seed=0)
    load_adapter(adapted, folder)
    return loaded


def grade(
    loaded: LoadedModel, setting: Setting, problems: Sequence[Problem], questions: Sequence[str] = ()
) -> tuple[GradedAnswer, ...]:
    """Return the model's greedy answers to ``problems``, graded; ``questions`` replace the problems' own texts."""
    texts = questions or [problem.question for problem in problems]
    rows = [NLFTExample(_chat(text), reference=problem.solution) for text, problem in zip(texts, problems, strict=True)]
    return evaluate_generation(loaded, ModelRenderer(loaded.tokenizer), rows, setting.answers).answers


def sample(
    loaded: LoadedModel, setting: Setting, questions: Sequence[str], *, temperature: float, seed: int
) -> list[str]:
    """Return one drawn answer to each question; of one that does not end what there is, or nothing."""
    renderer = ModelRenderer(loaded.tokenizer)
    prompts = [renderer.prompt(_chat(question)) for question in questions]
    decoding = Decoding(
        setting.answers.max_new_tokens,
        setting.answers.batch_size,
        temperature=temperature,
        seed=seed,
        context_length=loaded.context_length,
    )
    stop_ids = frozenset({renderer.end_of_turn_id, int(loaded.tokenizer.eos_token_id)})
    answers = generate(loaded.model, prompts, stop_ids, decoding)
    return [
        str(loaded.tokenizer.decode(answer.ids, skip_special_tokens=True)).strip()
        if answer.is_finished or setting.keeps_unfinished
        else ""
        for answer in answers
    ]


def _chat(question: str) -> list[Message]:
    return [Message(turn["role"], turn["content"]) for turn in messages(question)]  # type: ignore[arg-type]

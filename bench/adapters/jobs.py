"""Runs without data files: random rows of one length, an adapter, an optimizer and the engine's own steps.

The model is the 56 M-parameter Llama configuration with random weights: speed does not depend on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from worker.training.engine.optimizer import AdapterOptimizer
from worker.training.engine.prepared import PreparedExample
from worker.training.engine.scoring import Scorer
from worker.training.engine.step import Stepper
from worker.training.methods.supervised import Supervised
from worker.training.model.adapter import attach_adapter
from worker.training.model.base_model import LoadedModel
from worker.training.multi_lora.resident import ResidentBase, share_weights
from worker.training.spec import BaseModelRef, LoraSettings, RuntimeSettings
from worker.training.types import RenderedExample, TokenSequence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from worker.training.multi_lora.member import Member

VOCABULARY = 32_000
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "intermediate_size": 1408,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "max_position_embeddings": 4096,
}
RANK = 16
MICRO_BATCH_TOKENS = 1024  # what the trainer takes on a CPU


def build_base() -> PreTrainedModel:
    """Return the frozen model in float32."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(**CONFIG), dtype=torch.float32)
    model.requires_grad_(False)
    model.train(mode=False)
    return model


def hold(base: PreTrainedModel) -> ResidentBase:
    """Return ``base`` as the model of a group."""
    resident = ResidentBase()
    nothing = cast("PreTrainedTokenizerBase", None)  # no text is read here
    loaded = LoadedModel(base, nothing, 4096, base.num_parameters(), base.device, base.dtype)
    resident.hold(loaded, BaseModelRef(name="bench", path="", digest=""), RuntimeSettings())
    return resident


@dataclass(frozen=True, slots=True)
class Job:
    """One run: its adapter's parameters count as ``trained``."""

    scorer: Scorer
    stepper: Stepper
    optimizer: AdapterOptimizer
    examples: list[PreparedExample]
    trained: int

    def step(self, number: int) -> None:
        """Make the 1-based optimizer step; call it inside ``scorer.attention()``."""
        self.stepper.train(self.examples, self.optimizer, number, lambda: None)

    def steps(self, first: int, count: int) -> None:
        """Make ``count`` steps, the first of them being the 1-based ``first``."""
        with self.scorer.attention():
            for number in range(first, first + count):
                self.step(number)


def build_job(base: PreTrainedModel, tokens: int, seed: int, member: Member | None = None) -> Job:
    """Return a supervised run with ``tokens`` tokens a step in one row, half of them trained.

    Args:
        base: The model; its weights are shared, its layers are not touched.
        tokens: Of the row.
        seed: Of row and adapter.
        member: Place in a group; None is a run by itself.
    """
    adapted = attach_adapter(share_weights(base), LoraSettings(r=RANK), base_model_name="bench", seed=seed)
    forward = member.choose_forward(adapted) if member else None
    scorer = Scorer(adapted, micro_batch_tokens=MICRO_BATCH_TOKENS, forward=forward)
    chosen = Supervised.hyperparameters_type()
    ids = np.random.default_rng(seed).integers(VOCABULARY, size=tokens).astype(np.int32)
    sequence = TokenSequence(ids, np.arange(tokens // 2, tokens, dtype=np.int32))
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    optimizer = AdapterOptimizer(adapted, chosen, total_steps=10_000)
    example = PreparedExample(1, RenderedExample({Supervised.main_pass: sequence}, {}))
    return Job(scorer, Stepper(scorer, Supervised(), chosen), optimizer, [example], trained)

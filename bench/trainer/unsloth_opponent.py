"""Unsloth at its own pace: its model and its layers under TRL's `SFTTrainer`, which it changes when it is imported.

It runs in an environment of its own: see ``Variant.environment``.
"""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from unsloth import FastLanguageModel

from bench.trainer.points import ADAPTER
from bench.trainer.trl_opponents import number_tokenizer, run_supervised

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bench.trainer.pace import Pace
    from bench.trainer.points import Point, Precision

_LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def train(point: Point, pace: Pace, *, row_by_row: bool = False, precision: Precision | None = None) -> None:
    """Train on the base context; whether a batch of all rows is padded is Unsloth's own choice.

    On a CPU it always pads, unless it goes ``row_by_row``.
    """
    settings = {"gradient_checkpointing": False}
    run_supervised(point, pace, settings, row_by_row=row_by_row, model=load_model(point, precision))


def load_model(point: Point, precision: Precision | None = None) -> PreTrainedModel:
    """Return the point's model as Unsloth loads it from a folder, with a new adapter."""
    config = point.model_config()
    with tempfile.TemporaryDirectory() as folder:
        point.load(precision).save_pretrained(folder)
        number_tokenizer(config.vocab_size).save_pretrained(folder)
        model, _ = FastLanguageModel.from_pretrained(
            folder,
            max_seq_length=config.max_position_embeddings,
            dtype=point.precision(precision),
            load_in_4bit=False,
            use_gradient_checkpointing=False,
        )
    adapted: PreTrainedModel = FastLanguageModel.get_peft_model(
        model,
        r=ADAPTER.r,
        lora_alpha=int(ADAPTER.alpha),
        target_modules=_LINEAR_LAYERS,
        use_gradient_checkpointing=False,
    )
    return adapted

"""TRL's trainers at their own pace: `SFTTrainer`, and the experimental `SDFTTrainer`, which scores two prompts."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.experimental.sdft import SDFTConfig, SDFTTrainer

from bench.trainer.loops import LARGEST_NORM, LEARNING_RATE, labels_of, lora_config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.trainer.pace import Pace
    from bench.trainer.points import Point, Precision
    from worker.training.types import RenderedExample, TokenSequence


class _Paced(TrainerCallback):
    """Lets the trainer take a step when it is its turn."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._pace.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._pace.end()


def _arguments(point: Point, pace: Pace, folder: str) -> dict[str, Any]:
    """Return what a fair comparison asks for: the point's precision, the same step, nothing written or reported."""
    return {
        "output_dir": folder,
        "max_steps": pace.steps,
        "use_cpu": point.device == "cpu",
        "bf16": False,  # the weights' own precision, as everywhere in this benchmark; else float32 would be autocast
        "learning_rate": LEARNING_RATE,
        "max_grad_norm": LARGEST_NORM,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def train_supervised(
    point: Point,
    pace: Pace,
    *,
    settings: Mapping[str, Any],
    row_by_row: bool = False,
    precision: Precision | None = None,
) -> None:
    """Train on the base context with `SFTTrainer`, its defaults but for ``settings``."""
    model = point.load(precision)
    run_supervised(point, pace, settings, row_by_row=row_by_row, model=model, peft_config=lora_config())


def run_supervised(
    point: Point, pace: Pace, settings: Mapping[str, Any], *, row_by_row: bool = False, **model: Any
) -> None:
    """Train ``model``, the arguments of `SFTTrainer` that tell what is trained, on the base context.

    All rows are one batch, or with ``row_by_row`` a batch each whose gradients are added up: then nothing is padded.
    """
    rows = point.rows()
    sequences = [row.sequences["base"] for row in rows]
    columns = {
        "input_ids": [sequence.input_ids.tolist() for sequence in sequences],
        "labels": [labels_of(sequence).tolist() for sequence in sequences],
    }
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            **_arguments(point, pace, folder),
            per_device_train_batch_size=1 if row_by_row else len(rows),
            gradient_accumulation_steps=len(rows) if row_by_row else 1,
            max_length=None,
            **settings,
        )
        trainer = SFTTrainer(
            args=arguments,
            train_dataset=Dataset.from_dict(columns),
            processing_class=number_tokenizer(point.model_config().vocab_size),
            callbacks=[_Paced(pace)],
            **model,
        )
        trainer.train()


def train_two_prompts(
    point: Point, pace: Pace, *, settings: Mapping[str, Any], precision: Precision | None = None
) -> None:
    """Train with `SDFTTrainer`: the response behind its prompt, and behind the prompt with the reference shown.

    It is given its responses instead of sampling them, so that only training is measured.
    """
    rows = point.rows()
    responses = [_response(row.sequences["base"]) for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        arguments = SDFTConfig(
            **_arguments(point, pace, folder),
            per_device_train_batch_size=len(rows),
            gradient_accumulation_steps=1,
            max_prompt_length=None,
            shuffle_dataset=False,
            num_generations=1,
            teacher_prompt_template="{prompt} {privileged_context}",
            **settings,
        )
        trainer = SDFTTrainer(
            model=point.load(precision),
            args=arguments,
            train_dataset=Dataset.from_list([_texts(row) for row in rows]),
            processing_class=number_tokenizer(point.model_config().vocab_size),
            peft_config=lora_config(),
            callbacks=[_Paced(pace)],
        )
        trainer._generate = lambda prompts: (prompts, responses)
        trainer.train()


def _texts(row: RenderedExample) -> dict[str, str]:
    """Return the prompts of a row as words of the tokenizer below, one a token."""
    base, reference = row.sequences["base"], row.sequences["reference"]
    prompt = base.input_ids[: base.scored[0]]
    shown = reference.input_ids[len(prompt) : reference.scored[0]]
    return {"prompt": " ".join(map(str, prompt)), "privileged_context": " ".join(map(str, shown))}


def _response(sequence: TokenSequence) -> list[int]:
    return [int(token) for token in sequence.input_ids[sequence.scored]]


def number_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose words are the token numbers themselves: rows reach the model as they are."""
    words = {str(number): number for number in range(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="0", eos_token="1", unk_token="0")

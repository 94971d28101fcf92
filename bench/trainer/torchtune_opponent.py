"""torchtune at its own pace: its model, packing, collation and chunked cross-entropy, in the order of its LoRA recipe.

It runs in an environment of its own: see ``Variant.environment``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torchtune import training
from torchtune.data import padded_collate_packed, padded_collate_sft
from torchtune.datasets import PackedDataset
from torchtune.models.convert_weights import hf_to_tune
from torchtune.models.llama3_2 import lora_llama3_2
from torchtune.models.qwen2 import lora_qwen2, qwen2_hf_to_tune
from torchtune.modules.loss import CEWithChunkedOutputLoss
from torchtune.modules.peft import get_adapter_params, set_trainable_params
from torchtune.utils import batch_to_device

from bench.trainer.loops import IGNORED, LARGEST_NORM, LEARNING_RATE, labels_of
from bench.trainer.points import ADAPTER

if TYPE_CHECKING:
    from torch import Tensor
    from torchtune.modules import TransformerDecoder

    from bench.trainer.pace import Pace
    from bench.trainer.points import Point, Precision


def train(
    point: Point, pace: Pace, *, packed: bool, compiled: bool = False, precision: Precision | None = None
) -> None:
    """Train on the base context: one pack of all rows or one padded batch, layers and loss ``compiled`` or not."""
    batch = make_batch(point, packed=packed)
    model = load_model(point, precision)
    loss = CEWithChunkedOutputLoss()
    model.set_num_output_chunks(loss.num_output_chunks)
    if compiled:
        training.compile_model(model)
        training.compile_loss(loss)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, fused=True)
    for _ in range(pace.steps):
        with pace.step():
            torch.autograd.backward(compute_loss(model, loss, batch))
            torch.nn.utils.clip_grad_norm_(trained, LARGEST_NORM)
            optimizer.step()
            optimizer.zero_grad()


def make_batch(point: Point, *, packed: bool) -> dict[str, Any]:
    """Return tokens and labels [B, T] of the base context; of a pack, with B = 1, also positions and mask.

    A pack is as long as its rows together, so that nothing is padded. Its mask is one of flex attention on a GPU and a
    dense one elsewhere.
    """
    sequences = [row.sequences["base"] for row in point.rows()]
    rows = [{"tokens": one.input_ids.tolist(), "labels": labels_of(one).tolist()} for one in sequences]
    batch: dict[str, Any]
    if packed:
        packs = PackedDataset(rows, max_seq_len=sum(len(row["tokens"]) for row in rows))
        batch = padded_collate_packed([packs[0]])
    else:
        batch = padded_collate_sft(rows, padding_idx=0, ignore_idx=IGNORED)
    batch_to_device(batch, torch.device(point.device))
    return batch


def load_model(point: Point, precision: Precision | None = None) -> TransformerDecoder:
    """Return torchtune's model of the point's shape and weights, with a new adapter in their precision."""
    config = point.model_config()
    base = point.load(precision).state_dict()
    if config.tie_word_embeddings:
        del base["lm_head.weight"]
    shape = {"num_heads": config.num_attention_heads, "num_kv_heads": config.num_key_value_heads}
    build, convert = lora_llama3_2, hf_to_tune
    extra = {"scale_factor": 1}  # no rotary scaling: Llama 3.2 without it is Llama, with or without tied embeddings
    if config.model_type == "qwen2":
        build, convert, extra = lora_qwen2, qwen2_hf_to_tune, {}
    with training.set_default_dtype(point.precision(precision)), torch.device(point.device):
        model = build(
            ["q_proj", "k_proj", "v_proj", "output_proj"],
            apply_lora_to_mlp=True,
            vocab_size=config.vocab_size,
            num_layers=config.num_hidden_layers,
            embed_dim=config.hidden_size,
            intermediate_dim=config.intermediate_size,
            max_seq_len=config.max_position_embeddings,
            norm_eps=config.rms_norm_eps,
            rope_base=config.rope_parameters["rope_theta"],
            tie_word_embeddings=config.tie_word_embeddings,
            lora_rank=ADAPTER.r,
            lora_alpha=ADAPTER.alpha,
            **shape,
            **extra,
        )
    model.load_state_dict(convert(base, dim=config.hidden_size, **shape), strict=False)
    set_trainable_params(model, get_adapter_params(model))
    return model


def compute_loss(model: TransformerDecoder, loss: CEWithChunkedOutputLoss, batch: dict[str, Any]) -> Tensor:
    """Return the mean over the labelled tokens, in nats, of a model that gives its logits in the loss's chunks."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    labels = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    found: Tensor = loss(model(**inputs), labels)
    return found

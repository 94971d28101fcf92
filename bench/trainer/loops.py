"""Opponents written here: a plain loop of transformers and PEFT, and the structure of the published NLFT code.

Both use stock PEFT layers of the same rank and targets, padded batches, full logits and torch's own AdamW.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from bench.trainer.points import ADAPTER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peft import PeftModel
    from torch import Tensor

    from bench.trainer.pace import Pace
    from bench.trainer.points import Point, Precision
    from worker.training.types import RenderedExample, TokenSequence

IGNORED = -100
LEARNING_RATE = 2e-4
LARGEST_NORM = 1.0

# Of the published code: the loss is multiplied, a probability of zero replaced, a ratio above the threshold salient.
_LOSS_SCALE = 10.0
_SMALLEST = 1e-5
_THRESHOLD = 0.95


def lora_config() -> LoraConfig:
    """Return the adapter of every opponent, of the same size as the product's."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=ADAPTER.r,
        lora_alpha=int(ADAPTER.alpha),
        lora_dropout=0.0,
        target_modules=ADAPTER.target_modules,
    )


def train_plain(point: Point, pace: Pace, *, precision: Precision | None = None) -> None:
    """Train on the base context: one padded batch, ``model(labels=...)``."""
    model, optimizer = _adapt(point, precision)
    batch = _stack([row.sequences["base"] for row in point.rows()], point.device)
    for _ in range(pace.steps):
        with pace.step():
            model(**batch, use_cache=False).loss.backward()
            _update(model, optimizer)


def train_published(point: Point, pace: Pace, *, rows_together: int, precision: Precision | None = None) -> None:
    """Train as the published NLFT code does, ``rows_together`` rows in a backward pass.

    Judgment, base and reference contexts of a row go through the model in one batch with gradient, padded to the
    longest; a right row repeats its base context in the place of the judgment. Layers are checkpointed, logits of all
    positions are turned into float32 probabilities. Its clustering loop over tokens and its 8-bit base are left out,
    which makes this faster than the code it stands for.
    """
    model, optimizer = _adapt(point, precision)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    model.train()
    rows = point.rows()
    groups = [rows[start : start + rows_together] for start in range(0, len(rows), rows_together)]
    for _ in range(pace.steps):
        with pace.step():
            for group in groups:
                torch.autograd.backward(_published_loss(model, group, point.device) / len(groups))
            _update(model, optimizer)


def _adapt(point: Point, precision: Precision | None) -> tuple[PeftModel, torch.optim.Optimizer]:
    model = get_peft_model(point.load(precision), lora_config())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return model, torch.optim.AdamW(trained, lr=LEARNING_RATE)


def _update(model: PeftModel, optimizer: torch.optim.Optimizer) -> None:
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], LARGEST_NORM)
    optimizer.step()
    optimizer.zero_grad()


def labels_of(sequence: TokenSequence) -> Tensor:
    """Return the tokens that are scored, int64 [T], ``IGNORED`` elsewhere."""
    ids = torch.from_numpy(sequence.input_ids).long()
    labels = torch.full_like(ids, IGNORED)
    positions = torch.from_numpy(sequence.scored).long()
    labels[positions] = ids[positions]
    return labels


def _stack(sequences: Sequence[TokenSequence], device: str, multiple: int = 1) -> dict[str, Any]:
    """Return ids, mask and labels [B, T], padded at the end to the longest, a multiple of ``multiple``."""
    ids = [torch.from_numpy(sequence.input_ids).long() for sequence in sequences]
    stacked = {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], batch_first=True),
        "labels": pad_sequence([labels_of(one) for one in sequences], batch_first=True, padding_value=IGNORED),
    }
    spare = -stacked["input_ids"].shape[1] % multiple
    fillers = {"input_ids": 0, "attention_mask": 0, "labels": IGNORED}
    return {name: pad(value, (0, spare), value=fillers[name]).to(device) for name, value in stacked.items()}


def _published_loss(model: PeftModel, rows: Sequence[RenderedExample], device: str) -> Tensor:
    judged = [row.sequences.get("judgment", row.sequences["base"]) for row in rows]
    base = [row.sequences["base"] for row in rows]
    reference = [row.sequences["reference"] for row in rows]
    batch = _stack([*judged, *base, *reference], device, multiple=8)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    probabilities = logits.float().softmax(dim=-1)[:, :-1].contiguous()
    labels = batch["labels"][:, 1:].contiguous()
    wanted = probabilities.gather(2, labels.clamp(min=0)[:, :, None]).squeeze(2)
    wanted = torch.where(wanted == 0, _SMALLEST, wanted)
    count = len(rows)
    losses = []
    for index, row in enumerate(rows):
        places = [labels[index + part * count] != IGNORED for part in range(3)]
        judged_p, base_p, reference_p = (wanted[index + part * count][places[part]] for part in range(3))
        stray = -wanted[index][places[1]].log().mean()
        losses.append(_row_loss(judged_p, base_p, reference_p, is_right=bool(row.values["right"])) + stray)
    return _LOSS_SCALE * torch.stack(losses).mean()


def _row_loss(judged: Tensor, base: Tensor, reference: Tensor, *, is_right: bool) -> Tensor:
    """Return the loss of a row from the probabilities [n] of its response in the three contexts."""
    if is_right:
        salience = (reference / base).detach()
        return -(base.log() * salience.clamp(max=2)).mean()
    lowered = (judged / base).detach() > 1 / _THRESHOLD
    terms = torch.where(lowered, (1 - base).clamp(min=_SMALLEST).log(), base.log())
    return -(terms.mean() + judged.log().mean())

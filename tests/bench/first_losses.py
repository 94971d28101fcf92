"""Writes the first losses of a peer on the models of ``points()`` as JSON: ``python -m tests.bench.first_losses PEER``.

Run by the interpreter of the peer's environment, which has no pytest.
"""

import importlib
import json
import sys
from dataclasses import replace
from typing import Any

import torch

TIED = {"tie_word_embeddings": True}


def points() -> list[Any]:
    """Llama, the same with tied embeddings, Qwen2; with weights large enough for a wrong rotation to be seen."""
    tiny = importlib.import_module("bench.trainer.points").POINTS["tiny"]  # Unsloth comes before transformers
    config = {**tiny.config, "initializer_range": 0.3}
    return [replace(tiny, config=config | other) for other in ({}, TIED, {**TIED, "model_type": "qwen2"})]


def of_torchtune(peer: Any, point: Any) -> list[float]:
    """As one pack and as a padded batch."""
    model, loss = peer.load_model(point), peer.CEWithChunkedOutputLoss()
    model.set_num_output_chunks(loss.num_output_chunks)
    return [float(peer.compute_loss(model, loss, peer.make_batch(point, packed=packed))) for packed in (True, False)]


def of_unsloth(peer: Any, point: Any) -> list[float]:
    """Row by row, a mean over all tokens that are trained."""
    model = peer.load_model(point)
    total, count = 0.0, 0
    for row in point.rows():
        sequence = row.sequences["base"]
        ids = torch.from_numpy(sequence.input_ids).long()[None]
        labels = torch.full_like(ids, -100)
        labels[:, sequence.scored] = ids[:, sequence.scored]
        total += float(model(input_ids=ids, labels=labels).loss) * len(sequence.scored)
        count += len(sequence.scored)
    return [total / count]


def main(name: str) -> None:
    """Write a list a model."""
    peer = importlib.import_module(f"bench.trainer.{name}_opponent")
    measure = {"torchtune": of_torchtune, "unsloth": of_unsloth}[name]
    with torch.no_grad():
        sys.stdout.write(json.dumps([measure(peer, point) for point in points()]))


if __name__ == "__main__":
    main(*sys.argv[1:])

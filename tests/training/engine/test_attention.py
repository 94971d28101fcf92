from typing import Any

import pytest
import torch
from torch import Tensor, nn

from worker.training.engine.attention import attend_packed, packed
from worker.training.engine.packing import Layout

LENGTHS = (5, 1, 9)
TOTAL = sum(LENGTHS)


def dense(
    query: Tensor, key: Tensor, value: Tensor, *, window: int | None, softcap: float | None, scaling: float
) -> Tensor:
    """The definition: scores of all pairs, masked to causal pairs within a document and a window."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scores = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    document = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    apart = torch.arange(TOTAL)[:, None] - torch.arange(TOTAL)[None, :]
    seen = (document[:, None] == document[None, :]) & (apart >= 0)
    if window is not None:
        seen &= apart < window
    return scores.masked_fill(~seen, -torch.inf).softmax(dim=-1) @ value


@pytest.mark.parametrize("softcap", [None, 0.5])
@pytest.mark.parametrize("window", [None, 1, 3, 9, 100])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_equals_the_definition(key_heads: int, window: int | None, softcap: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, TOTAL, 8, generator=generator)
    key, value = torch.randn(2, 1, key_heads, TOTAL, 8, generator=generator)
    layout = Layout(LENGTHS, torch.tensor([0, 5, 6, 15], dtype=torch.int32))
    with packed(layout):
        found, _ = attend_packed(
            nn.Identity(), query, key, value, None, scaling=0.3, sliding_window=window, softcap=softcap
        )
    expected = dense(query, key, value, window=window, softcap=softcap, scaling=0.3)
    torch.testing.assert_close(found, expected.transpose(1, 2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("unknown", ["s_aux", "position_bias"])
def test_what_it_cannot_compute_is_refused(unknown: str) -> None:
    heads = torch.zeros(1, 1, 2, 4)
    asked: dict[str, Any] = {unknown: torch.zeros(1)}
    with pytest.raises(NotImplementedError):
        attend_packed(nn.Identity(), heads, heads, heads, None, **asked)

"""The way of a batch from the host to a device, which keeps neither waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray
    from torch import Tensor


def to_device(values: NDArray[Any], device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """Return ``values`` on ``device`` as ``dtype``; they travel as they are, so that token ids take 4 bytes each.

    A GPU copies by itself from pinned memory alone: of any other the host may have to wait until all that the device
    was given before is done. Torch gives pinned memory to the next batch once the copy out of it is done.
    """
    host = torch.from_numpy(values)
    if device.type == "cuda":
        host = host.pin_memory()
    return host.to(device, non_blocking=True).to(dtype)

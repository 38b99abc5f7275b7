"""Maps processed a few rows at a time, so that temporaries, above all in fp32, stay small."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Elements of a block. On a CPU they stay in cache; elsewhere each block costs one to ten launches. Blocks depend only
# on the shape and the device type, so that sums over them are deterministic.
CPU_BLOCK = 2**18
DEVICE_BLOCK = 2**24
ROWS = 8  # so that a block has whole bytes of signs


def row_blocks(x: Tensor, parts: int = 1) -> list[slice]:  # (N, C, H, W)
    """The rows of each block: a multiple of `ROWS` but for the last; one empty block of a map without elements.

    `parts` divides the usual size, for callers with many temporaries per block.
    """
    batch, channels, height, width = x.shape
    block = (CPU_BLOCK if x.device.type == "cpu" else DEVICE_BLOCK) // parts
    step = max(1, block // max(batch * channels * width * ROWS, 1)) * ROWS
    return [slice(first, min(first + step, height)) for first in range(0, max(height, 1), step)]


def map_of_blocks(x: Tensor, make: Callable[[slice], Tensor]) -> Tensor:
    """A map like `torch.empty_like(x)`, computed block by block."""
    made = torch.empty_like(x)
    for rows in row_blocks(x):
        made[:, :, rows].copy_(make(rows))
    return made

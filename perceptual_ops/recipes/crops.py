"""Random crops of pictures, each a function of its number alone: any process can make any of them, in any order."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from .picture_pool import PicturePool


class RandomCrops(Dataset[Tensor]):
    """Square crops (3, size, size) in [0, 1] of pictures, without end: crop `i` depends on the seed and on i alone.

    A crop is a square at a random place, half of them mirrored, brought to `size`. Its side is between `size` pixels,
    or `share` of the picture's shorter side where that is more, and `zoom * size`.

    Args:
        pictures: Files that `read_image` reads. Those with a side below `size`, or that cannot be read, are left out,
            each with a warning; the next one takes the place of a picture that turns out damaged later.
        size: Pixels of a side.
        zoom: How many times larger than `size` the largest square is; infinity for the whole shorter side.
        share: Of the shorter side that the smallest square has, in [0, 1].
        seed: Of the choice of crops.
        strict: Whether a picture that cannot be read is an error.

    Attributes:
        pool: The pictures, of which each process keeps the first decoded.

    Raises:
        ValueError: No picture is large enough, or an argument is out of range; with `strict`, a picture that cannot be
            read.
    """

    def __init__(
        self,
        pictures: Sequence[str | os.PathLike[str]],
        size: int,
        *,
        zoom: float = math.inf,
        share: float = 0.0,
        seed: int = 0,
        strict: bool = False,
    ) -> None:
        if not zoom >= 1:
            raise ValueError(f"zoom: expected a number of at least 1, got {zoom!r}")
        if not 0 <= share <= 1:
            raise ValueError(f"share: expected a number in [0, 1], got {share!r}")
        self.pool: PicturePool = PicturePool(pictures, size, strict=strict)
        self.size: int = size
        self.zoom: float = zoom
        self.share: float = share
        self.seed: int = seed

    @property
    def pictures(self) -> list[Path]:
        """Those that crops are cut from."""
        return self.pool.paths

    def __getitem__(self, index: int) -> Tensor:
        generator = random.Random(f"{self.seed} {index}")  # torch's would take 32 bits of them
        draws = [generator.random() for _ in range(5)]
        pixels = self.pool.pixels(int(draws[0] * len(self.pool)))
        height, width = pixels.shape[1:]
        largest = min(height, width, self.zoom * self.size)
        smallest = min(largest, max(self.size, self.share * min(height, width)))
        side = round(smallest * (largest / smallest) ** draws[1])  # evenly over the logarithm
        top, left = int(draws[2] * (height - side + 1)), int(draws[3] * (width - side + 1))
        crop = pixels[:, top : top + side, left : left + side] / 255
        if draws[4] < 0.5:
            crop = crop.flip(2)
        if side == self.size:
            return crop
        size = (self.size, self.size)
        shrunk = F.interpolate(crop[None], size, mode="bicubic", antialias=True, align_corners=False)
        return shrunk[0].clamp(0, 1)


def check_memory(batch: int, size: int) -> None:
    """Refuses a batch whose crops alone are more than this machine holds, before they are collected."""
    if not hasattr(os, "sysconf"):  # Windows
        return
    there, wanted = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), batch * 3 * size**2 * 4  # bytes, in fp32
    if wanted > there:
        raise ValueError(
            f"batch: expected crops that fit into the {there / 2**30:.0f} GiB of this machine, {batch} of {size} x "
            f"{size} pixels take {wanted / 2**30:.0f}; choose a smaller batch or size"
        )

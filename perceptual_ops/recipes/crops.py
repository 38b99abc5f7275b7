"""Random crops of pictures, each a function of its number alone: any process can make any of them, in any order."""

from __future__ import annotations

import math
import os
import random
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ..images import read_image, side_lengths

CACHE_BYTES = 1 << 30  # of decoded pictures, in each process


class RandomCrops(Dataset[Tensor]):
    """Square crops (3, size, size) in [0, 1] of pictures, without end: crop `i` depends on the seed and on i alone.

    A crop is a square at a random place, half of them mirrored, brought to `size`. Its side is between `size` pixels,
    or `share` of the picture's shorter side where that is more, and `zoom * size`.

    Args:
        pictures: Files that Pillow reads. Those with a side below `size`, or that cannot be read, are left out, with
            a warning.
        size: Pixels of a side.
        zoom: How many times larger than `size` the largest square is; infinity for the whole shorter side.
        share: Of the shorter side that the smallest square has, in [0, 1].
        seed: Of the choice of crops.

    Raises:
        ValueError: No picture is large enough, or an argument is out of range.
    """

    def __init__(
        self,
        pictures: Sequence[str | os.PathLike[str]],
        size: int,
        *,
        zoom: float = math.inf,
        share: float = 0.0,
        seed: int = 0,
    ) -> None:
        if not zoom >= 1:
            raise ValueError(f"zoom: expected a number of at least 1, got {zoom!r}")
        if not 0 <= share <= 1:
            raise ValueError(f"share: expected a number in [0, 1], got {share!r}")
        self.pictures = [Path(path) for path in pictures if _least_side(path) >= size]
        if not self.pictures:
            raise ValueError(
                f"pictures: expected one with sides of at least {size} pixels, got {len(pictures)} that are smaller or "
                f"cannot be read"
            )
        if left_out := len(pictures) - len(self.pictures):
            told = f"{left_out} of {len(pictures)} pictures are left out: a side below {size} pixels, or not to be read"
            warnings.warn(told, RuntimeWarning, stacklevel=2)
        self.size, self.zoom, self.share, self.seed = size, zoom, share, seed
        self._decoded: dict[int, Tensor] = {}  # (3, H, W) uint8, of the first pictures that fit into CACHE_BYTES
        self._bytes = 0

    def __getitem__(self, index: int) -> Tensor:
        generator = random.Random(f"{self.seed} {index}")  # torch's would take 32 bits of them
        draws = [generator.random() for _ in range(5)]
        pixels = self._picture(int(draws[0] * len(self.pictures)))
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

    def _picture(self, number: int) -> Tensor:  # (3, H, W) uint8
        """The picture, or the next that can be read: one damaged file must not end hours of training."""
        for attempt in range(len(self.pictures)):
            place = (number + attempt) % len(self.pictures)
            if place in self._decoded:
                return self._decoded[place]
            try:
                pixels = read_image(self.pictures[place])[0].mul(255).round().to(torch.uint8)
            except (OSError, ValueError) as error:
                warnings.warn(f"{error}; the next picture takes its place", RuntimeWarning, stacklevel=2)
                continue
            if self._bytes + pixels.numel() <= CACHE_BYTES:
                self._decoded[place] = pixels
                self._bytes += pixels.numel()
            return pixels
        raise ValueError(f"pictures: expected one that can be read, none of the {len(self.pictures)} can")


def _least_side(path: str | os.PathLike[str]) -> int:
    """In pixels; 0 of a file that is no picture."""
    try:
        return min(side_lengths(path))
    except ValueError:
        return 0

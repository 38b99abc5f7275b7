"""Images that are read, and gradients that are written, a rectangle at a time: memory holds what is worked on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .tiles import Region

BAND = 256  # rows that are filled with zeros at a time


class ReadByParts:
    """A picture (1, C, H, W) of which one asks for regions, each a tensor.

    Args:
        name: What its argument is called.
        picture: (C, H, W) or (1, C, H, W), floating point: a tensor, a NumPy array or memmap, a slice of a safetensors
            file; or an object with `shape` whose `read(rows, columns)` gives a rectangle (C, h, w) for two slices.
        device: Where its regions are to be.
        dtype: Of its regions.
    """

    def __init__(self, name: str, picture: Any, device: torch.device, dtype: torch.dtype) -> None:
        if not hasattr(picture, "read") and not hasattr(picture, "__getitem__"):
            raise TypeError(
                f"{name}: expected a tensor, an array, or an object with shape and read(rows, columns); "
                f"got {type(picture).__name__}"
            )
        shape: Sequence[int] = picture.get_shape() if hasattr(picture, "get_shape") else getattr(picture, "shape", ())
        self._name, self._picture, self._batched = name, picture, len(shape) == 4
        if len(shape) not in (3, 4) or (self._batched and shape[0] != 1):
            raise ValueError(f"{name}: expected one picture (C, H, W) or (1, C, H, W), got {tuple(shape)}")
        self.shape, self.device, self._dtype = torch.Size((1, *shape[-3:])), device, dtype

    def __getitem__(self, region: Region) -> Tensor:  # (1, C, h, w)
        _, rows, columns = region
        if hasattr(self._picture, "read"):
            part = self._picture.read(rows, columns)
        else:
            every = slice(None)
            index = (every, every, rows, columns) if self._batched else (every, rows, columns)
            part = self._picture[index]
        found = part if isinstance(part, Tensor) else torch.tensor(part)
        if not found.is_floating_point():
            raise TypeError(
                f"{self._name}: expected floating-point numbers, got {found.dtype}; give an object whose "
                "read(rows, columns) converts them"
            )
        found = found.detach().reshape(1, *found.shape[-3:])
        height, width = len(range(self.shape[2])[rows]), len(range(self.shape[3])[columns])
        if found.shape[1:] != (self.shape[1], height, width):
            raise ValueError(
                f"{self._name}: expected a rectangle {(self.shape[1], height, width)} of its pixels, "
                f"got {tuple(found.shape[1:])}"
            )
        return found.to(self.device, self._dtype)


class WrittenByParts:
    """A gradient (1, C, H, W) in a tensor, an array or a memmap, 0 at first.

    Args:
        name: What its argument is called.
        out: (C, H, W) or (1, C, H, W), fp32 or fp64, which is overwritten.
        shape: What it has to be.
        device: Where regions of it are added up.
    """

    def __init__(self, name: str, out: Any, shape: torch.Size, device: torch.device) -> None:
        kind = getattr(out, "dtype", type(out).__name__)
        if not hasattr(out, "shape") or str(kind).removeprefix("torch.") not in ("float32", "float64"):
            raise TypeError(f"{name}: expected a tensor, an array or a memmap of fp32 or fp64, got {kind}")
        if tuple(out.shape) not in (tuple(shape), tuple(shape[1:])):
            raise ValueError(f"{name}: expected the shape {tuple(shape[1:])} of the output, got {tuple(out.shape)}")
        if hasattr(out, "flags") and not out.flags.writeable:
            raise ValueError(f"{name}: expected an array that can be written, got one that is read-only")
        self._numbers = out[0] if len(out.shape) == 4 else out
        self._device = device
        for first in range(0, shape[2], BAND):
            self._numbers[:, first : first + BAND] = 0

    def __getitem__(self, region: Region) -> Tensor:  # (1, C, h, w)
        part = self._numbers[region]
        found = part.detach() if isinstance(part, Tensor) else torch.tensor(part)
        return found.to(self._device)[None]

    def __setitem__(self, region: Region, numbers: Tensor) -> None:  # (1, C, h, w)
        self._numbers[region] = numbers[0] if isinstance(self._numbers, Tensor) else numbers[0].cpu().numpy()

"""Images read and gradients written by rectangles, so that memory holds only those in use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .tiles import Region


class Readable(Protocol):
    """Images (N, C, H, W) that are indexed by regions: a tensor, or an object that reads them."""

    @property
    def shape(self) -> torch.Size: ...

    def __getitem__(self, region: Region, /) -> Tensor: ...


class Writable(Protocol):
    """A gradient that is accumulated by regions."""

    def __getitem__(self, region: Region, /) -> Tensor: ...

    def __setitem__(self, region: Region, values: Tensor, /) -> None: ...


BAND = 256  # rows at a time of a pass over a whole picture


class ReadByParts:
    """A picture (1, C, H, W) that is indexed by regions, each a tensor.

    Args:
        name: What its argument is called.
        picture: (C, H, W) or (1, C, H, W), floating point: a tensor, a NumPy array or memmap, a slice of a safetensors
            file; or an object with `shape` whose `read(rows, columns)` gives a rectangle (C, h, w) for two slices.
        device: Where its regions are to be.
        dtype: Of its regions.
        factor, shift: Values are read as value * factor + shift.
    """

    def __init__(
        self, name: str, picture: Any, device: torch.device, dtype: torch.dtype, factor: float = 1.0, shift: float = 0.0
    ) -> None:
        if not hasattr(picture, "read") and not hasattr(picture, "__getitem__"):
            raise TypeError(
                f"{name}: expected a tensor, an array, or an object with shape and read(rows, columns); "
                f"got {type(picture).__name__}"
            )
        shape: Sequence[int] = picture.get_shape() if hasattr(picture, "get_shape") else getattr(picture, "shape", ())
        self._name, self._picture, self._batched = name, picture, len(shape) == 4
        if len(shape) not in (3, 4) or (self._batched and shape[0] != 1):
            raise ValueError(f"{name}: expected one picture (C, H, W) or (1, C, H, W), got {tuple(shape)}")
        own = None if hasattr(picture, "read") else getattr(picture, "dtype", None)
        if not (own.is_floating_point if isinstance(own, torch.dtype) else getattr(own, "kind", "f") == "f"):
            self._refuse_dtype(own)
        self.shape: torch.Size = torch.Size((1, *shape[-3:]))
        self.device: torch.device = device
        self._dtype = dtype
        self._factor, self._shift = factor, shift

    def __getitem__(self, region: Region) -> Tensor:  # (1, C, h, w)
        _, rows, columns = region
        if hasattr(self._picture, "read"):
            part = self._picture.read(rows, columns)
        else:
            every = slice(None)
            index = (every, every, rows, columns) if self._batched else (every, rows, columns)
            part = self._picture[index]
        values = part.detach() if isinstance(part, Tensor) else _tensor_of(part)
        if not values.is_floating_point():
            self._refuse_dtype(values.dtype)
        height, width = len(range(self.shape[2])[rows]), len(range(self.shape[3])[columns])
        if values.dim() not in (3, 4) or values.shape[-3:] != (self.shape[1], height, width):
            raise ValueError(
                f"{self._name}: expected a rectangle {(self.shape[1], height, width)} of its pixels, "
                f"got {tuple(values.shape)}"
            )
        values = values.reshape(1, *values.shape[-3:]).to(self.device, self._dtype)
        return values if self._factor == 1 and not self._shift else values * self._factor + self._shift

    def _refuse_dtype(self, dtype: object) -> None:
        raise TypeError(
            f"{self._name}: expected floating-point numbers, got {dtype}; give an object whose read(rows, columns) "
            "converts them"
        )


class WrittenByParts:
    """A gradient (1, C, H, W) in a tensor, an array or a memmap.

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
        if isinstance(out, Tensor) and (out.requires_grad or out.is_meta):
            what = "a meta tensor" if out.is_meta else "one that requires grad"
            raise ValueError(f"{name}: expected a tensor that can be written, got {what}")
        self._out, self._device, self._rows = out, device, shape[2]
        self._before: tuple[Any, ...] = (0, slice(None)) if len(out.shape) == 4 else (slice(None),)

    def clear(self) -> None:
        """Makes it 0."""
        for band in self._bands():
            self._out[band] = 0

    def multiply(self, factor: float) -> None:
        """Multiplies it."""
        for band in self._bands():
            self._out[band] = self._out[band] * factor

    def __getitem__(self, region: Region) -> Tensor:  # (1, C, h, w)
        part = self._out[self._before + region[1:]]
        return (part if isinstance(part, Tensor) else _tensor_of(part)).to(self._device)[None]

    def __setitem__(self, region: Region, values: Tensor) -> None:  # (1, C, h, w)
        written = values[0] if isinstance(self._out, Tensor) else values[0].cpu().numpy()
        self._out[self._before + region[1:]] = written

    def _bands(self) -> Iterator[tuple[Any, ...]]:
        for first in range(0, self._rows, BAND):
            yield (*self._before, slice(first, first + BAND))


def memory_of(picture: Any) -> range:
    """The address range of a tensor or an array; empty for anything else."""
    if isinstance(picture, Tensor):
        size = picture.element_size()
        start, strides = picture.data_ptr(), [stride * size for stride in picture.stride()]
    elif interface := getattr(picture, "__array_interface__", None):
        start, strides, size = interface["data"][0], picture.strides, picture.itemsize
    else:
        return range(0)
    if 0 in picture.shape:
        return range(0)
    ends = [(length - 1) * stride for length, stride in zip(picture.shape, strides, strict=True)]
    return range(start + sum(end for end in ends if end < 0), start + sum(end for end in ends if end > 0) + size)


def _tensor_of(part: Any) -> Tensor:
    """A copy of an array, whatever its strides and byte order."""
    import numpy as np

    array = np.asarray(part)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C", copy=True))

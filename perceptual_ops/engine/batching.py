"""Chunk sizes and tile sizes: how many samples, and how much of a large one, go through a network at a time."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .._autocast import autocast

# Pixels of a chunk in fp32. On a CPU, a map of 64 channels is then 16 MB, which the allocator reuses without a system
# call; on a GPU, the first maps are a few hundred MB, enough to occupy it.
CPU_PIXELS = 256 * 256
GPU_PIXELS = 8 * 512 * 512
# The deep layers of most networks have few pixels and many weights, which each chunk reads anew: an image at a time
# they take 1.1 to 1.4 times the time of eager on two cores, four at a time about the same (bench/NOTES.md).
SMALL_MAPS_CPU_PIXELS = 4 * 224 * 224
# Side of a tile through all layers on a CPU: VGG16's halo, 45 pixels on each side to relu4_3 and 100 to relu5_3, is to
# be small beside it.
TILE_PIXELS = 768 * 768
LARGE = 2 * GPU_PIXELS  # of an image whose maps would take gigabytes
WHERE_LARGE, AUTO = 0, -1  # tile sizes of None and "auto"


def default_chunk_size(
    height: int, width: int, dtype: torch.dtype, device_type: str, has_small_maps: bool = False
) -> int:
    """The chunk size for chunk_size=None. It depends on nothing else, so that the same input gives the same bits.

    As many samples of (height, width) as have 256 x 256 pixels in fp32 on a CPU (4 times 224 x 224 through a trunk that
    has small maps: AlexNet and all that is no chain), and 8 times 512 x 512 elsewhere; in 16 bits twice, in fp64 half
    as many. At least one.
    """
    return max(1, _pixels(dtype, device_type, has_small_maps) // (height * width))


def samples_at_a_time(images: Tensor, dtype: torch.dtype, has_small_maps: bool = False) -> int:
    """The default chunk size of images (N, C, H, W), or of clips (N, C, D, H, W), whose frames are all of a sample."""
    height, width = images.shape[-2:]
    frames = images.shape[2] if images.dim() == 5 else 1
    return default_chunk_size(height * frames, width, dtype, images.device.type, has_small_maps)


def tile_side(
    tile_size: int, height: int, width: int, dtype: torch.dtype, device_type: str, is_nested: bool = False
) -> int | None:
    """The side of the tiles that run through all layers of a chain; None: images run whole, or in tiles for the first
    layers of LPIPS alone.

    Args:
        tile_size: In pixels; `AUTO` for what `auto_tile_side` says; `WHERE_LARGE` for that where the image has more
            than `LARGE` pixels (twice as many in 16 bits, half as many in fp64).
        is_nested: See `auto_tile_side`.
    """
    if tile_size == WHERE_LARGE and height * width <= LARGE * 4 // dtype.itemsize:
        return None
    side = auto_tile_side(dtype, device_type, is_nested) if tile_size in (AUTO, WHERE_LARGE) else tile_size
    return side if max(round(height / side), round(width / side)) > 1 else None


def auto_tile_side(dtype: torch.dtype, device_type: str, is_nested: bool = False) -> int:
    """The side of a tile for tile_size="auto": 768 pixels in fp32 on a CPU, 1448 elsewhere; scaled by the size of
    the dtype otherwise, 1086 and 2048 in 16 bits. Twice that for nested tiles (LPIPS), whose first layers, with maps
    four times as large as the next, run in tiles of their own. The remainder of an image goes to its last tile, which
    may be half as long again. It depends on nothing else, so that the same input gives the same bits.
    """
    side = math.isqrt((TILE_PIXELS if device_type == "cpu" else GPU_PIXELS) * 4 // dtype.itemsize)
    return 2 * side if is_nested else side


def default_tile_side(height: int, width: int, dtype: torch.dtype, device_type: str) -> int | None:
    """The side of the tiles for the first layers; None where the image is no more than two of them."""
    pixels = _pixels(dtype, device_type)
    return math.isqrt(pixels) if height * width > 2 * pixels else None


def _pixels(dtype: torch.dtype, device_type: str, has_small_maps: bool = False) -> int:
    on_cpu = SMALL_MAPS_CPU_PIXELS if has_small_maps else CPU_PIXELS
    return (on_cpu if device_type == "cpu" else GPU_PIXELS) * 4 // dtype.itemsize


def chunks(batch: int, size: int | None) -> list[slice]:
    """The rows of each chunk; an empty batch is one empty chunk. None: one chunk, of a batch whatever its size."""
    if size is None:
        return [slice(None)]
    return [slice(first, first + size) for first in range(0, max(batch, 1), size)]


def launches_cost(device: torch.device) -> bool:
    """Whether launch overhead dominates small operators on this device."""
    return device.type == "cuda"


@contextlib.contextmanager
def target_pass(device: torch.device) -> Iterator[None]:
    """Computes cached targets independently of the caller's modes; they may be used in training later."""
    with torch.inference_mode(False), torch.no_grad(), autocast(device.type):
        yield


def rows_of(targets: Sequence[Tensor], rows: slice) -> list[Tensor]:
    """The rows of targets; a target with a batch of 1 stays as it is."""
    return [target if target.shape[0] == 1 else target[rows] for target in targets]


def same_size(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether two batches have the same size apart from batch and channels."""
    # Size by size: whether symbolic ones are in a tuple is not known. No generator, which torch.compile cannot trace.
    return len(a) == len(b) and all([x == y for x, y in zip(a[2:], b[2:], strict=True)])


def check_partner(name: str, output: Sequence[int], partner: Sequence[int], what: str) -> None:
    if not same_size(output, partner) or (partner[0] != 1 and partner[0] != output[0]):
        raise ValueError(
            f"{name}: expected the batch and size of {what}"
            f"{'' if name == 'output' else ', or a batch of 1'}; output is {tuple(output)}, the other {tuple(partner)}"
        )

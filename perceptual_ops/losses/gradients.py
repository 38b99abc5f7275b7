"""`gradient_of`: value and gradient of a loss of pictures that need not fit in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _checks as checks
from ..engine.batching import auto_tile_side
from ..engine.custom_op import TrunkInput
from ..engine.large_images import Readable, ReadByParts, Writable, WrittenByParts, memory_of
from ..engine.masks import Mask, Masks
from ..engine.modes import no_autograd
from ..engine.tile_parts import tiles_through
from ..engine.tiled_loss import TiledLoss
from ..engine.tiled_metric import TiledMetric
from ..engine.tiles import Tile
from .base import FrozenLoss
from .lpips import LPIPS
from .mask import check_numbers, guides_of
from .metric import MetricLoss
from .perceptual import PerceptualLoss

Progress = Callable[[int, int], None]


def gradient_of(
    criterion: PerceptualLoss | MetricLoss,
    output: Any,
    target: Any = None,
    *,
    mask: Any = None,
    out: Any = None,
    progress: Progress | None = None,
) -> tuple[Tensor, Any]:
    """The loss of a picture of any size and its gradient, in tiles of `criterion.tile_size`; None is "auto".

    Pictures may be tensors, NumPy arrays and memmaps, slices of safetensors files (`f.get_slice`), or objects with a
    `shape` whose `read(rows, columns)` gives a rectangle (C, h, w) for two slices; the gradient may go to a memmap. So
    memory holds one tile, whatever the picture: on a CPU one to two gigabytes for VGG16 in fp32 at the default size.
    Features that `set_content` kept grow with their picture: give large targets here. Clips go to the criterion itself,
    which needs the memory of a few frames or of a tile beside theirs.

    Args:
        criterion: A `PerceptualLoss`, `LPIPS` or `DISTS` over a chain (VGG, AlexNet), with engine="lean".
        output: (3, H, W) or (1, 3, H, W), floating point, in the criterion's input_range.
        target: Of the same size; for a `PerceptualLoss` its content, by default that of `set_content`. No gradient is
            made by it. Style is what `set_style` was given.
        mask: Which pixels are compared, (1, H, W) or (1, 1, H, W) in [0, 1] of the output's size, a picture too, or
            bool; see `PerceptualLoss.forward`. It is held as a whole, as are the masks of `set_style`. Not for a
            `DISTS`.
        out: Where the gradient goes, fp32 or fp64, shaped like the output; overwritten. Default: a new tensor on the
            criterion's device.
        progress: Called with how many tiles are done, and of how many; style and DISTS go over them twice.

    Returns:
        The loss (), and its gradient with respect to the output, which is `out` or a tensor (1, 3, H, W).

    Raises:
        TypeError, ValueError: Invalid argument; the message names it.
        RuntimeError: The compiled operators cannot run here.
    """
    check_criterion(criterion)
    if progress is not None and not callable(progress):
        raise TypeError(f"progress: expected a function of two numbers, got {type(progress).__name__}")
    trunk_input, side = tiled_trunk_input(criterion)
    device = criterion.device
    picture = _picture("output", output, criterion, trunk_input)
    other = None if target is None else _picture("target", target, criterion, trunk_input)
    if other is not None and other.shape != picture.shape:
        raise ValueError(f"target: expected the size of output, {tuple(picture.shape)}; got {tuple(other.shape)}")
    if out is None:
        out = torch.empty(picture.shape, dtype=trunk_input.wide, device=device)
    elif any(_overlap(out, read) for read in (output, target) if read is not None):
        raise ValueError(
            "out: expected memory of its own, got some that output or target, still read, reach into; pass another"
        )
    made = WrittenByParts("out", out, picture.shape, device)
    pixels = None if mask is None else _mask(mask, picture, trunk_input)
    tiled = in_tiles(criterion, trunk_input, side, picture, other, made, None, pixels)
    if progress is not None:
        tiled.progress = _counted(progress, tiled.passes, trunk_input, picture, side)
    factor, _ = criterion.range_map()
    made.clear()
    with no_autograd(trunk_input.scale):
        loss = tiled.loss()
    if factor != 1:
        made.multiply(factor)
    return loss.squeeze(0), out


def _overlap(a: Any, b: Any) -> bool:
    """Whether the memory of two pictures, from first byte to last, has some in common."""
    first, second = memory_of(a), memory_of(b)
    return max(first.start, second.start) < min(first.stop, second.stop)


def check_criterion(criterion: object) -> None:
    """Refuses what is no loss of this library over a frozen network."""
    if not isinstance(criterion, (PerceptualLoss, MetricLoss)):
        raise TypeError(f"criterion: expected a PerceptualLoss, an LPIPS or a DISTS, got {type(criterion).__name__}")


def tiled_trunk_input(criterion: PerceptualLoss | MetricLoss) -> tuple[TrunkInput, int]:
    """How images enter it, and the side of the tiles in which all do; raises where they cannot."""
    if reason := criterion.no_tiles():
        raise ValueError(f"criterion: expected one that runs in tiles, but {reason}")
    like = torch.empty(0, device=criterion.device)
    if not criterion.runs_lean(images=like):
        raise RuntimeError("criterion: expected compiled operators, without which there are no tiles; got none here")
    trunk_input = criterion.trunk_input(like)
    side = trunk_input.tile_size
    if side <= 0:
        side = auto_tile_side(trunk_input.dtype, like.device.type, isinstance(criterion, LPIPS))
    return trunk_input, side


def _picture(name: str, picture: Any, criterion: FrozenLoss, trunk_input: TrunkInput) -> ReadByParts:
    found = ReadByParts(name, picture, trunk_input.scale.device, trunk_input.wide, *criterion.range_map())
    if found.shape[1] != 3:
        raise ValueError(
            f"{name}: expected (3, H, W) for {criterion.frozen_network.name}, got {tuple(found.shape[1:])}"
        )
    criterion.check_size(name, found.shape, criterion.network_layers)
    return found


def _mask(mask: Any, output: ReadByParts, trunk_input: TrunkInput) -> Tensor:  # (1, 1, H, W)
    if isinstance(mask, Tensor):
        checks.refuse_gradient("mask", mask)
    if str(getattr(mask, "dtype", "")).endswith("bool"):
        mask = torch.as_tensor(mask).float()
    found = ReadByParts("mask", mask, trunk_input.scale.device, trunk_input.wide)
    if found.shape != (1, 1, *output.shape[2:]):
        height, width = output.shape[2:]
        raise ValueError(f"mask: expected shape (1, {height}, {width}) for that output, got {tuple(found.shape[1:])}")
    return check_numbers("mask", found[..., slice(None), slice(None)], trunk_input.scale.device)


def in_tiles(
    criterion: PerceptualLoss | MetricLoss,
    trunk_input: TrunkInput,
    side: int,
    output: Readable,
    target: Readable | None,
    by_output: Writable | None,
    by_target: Writable | None,
    mask: Tensor | None = None,  # (1, 1, H, W)
) -> TiledLoss | TiledMetric:
    """The criterion in tiles, its targets checked; gradients are added where they are wanted."""
    if isinstance(criterion, MetricLoss):
        if target is None:
            raise ValueError("target: expected the picture that output is compared with, got None")
        if mask is not None and not isinstance(criterion, LPIPS):
            raise ValueError(f"mask: expected None for a {type(criterion).__name__}, which has none; got a mask")
        metric = criterion.metric_settings().of(criterion.learned_weights(trunk_input.wide))
        tiled = TiledMetric(trunk_input, metric, criterion.layers, side, output, target, by_output, by_target)
        tiled.mask = None if mask is None else Mask(mask)
        return tiled
    if target is not None and not criterion.content_layers:
        raise ValueError("target: expected None, since this loss has no content part; a style image is for set_style")
    shaped = torch.empty(output.shape, device="meta")
    contents = [] if target is not None else criterion._content_targets(shaped, None)[1]
    grams = criterion._style_targets(shaped, None)
    size, (regions, shares) = criterion._size_of_call(shaped), criterion._regions(None)
    terms = criterion.terms(shares)
    loss = TiledLoss(trunk_input, terms, side, output, target, contents, grams, by_output, by_target)
    loss.masks = Masks.of(mask, guides_of(mask, [size.of_mask(region, shaped) for region in regions]))
    criterion.check_guides(loss.masks.guides)
    return loss


def _counted(
    progress: Progress, passes: Sequence[tuple[str, ...]], trunk_input: TrunkInput, output: ReadByParts, side: int
) -> Callable[[Tile], None]:
    """Counts the tiles of all passes for the caller."""
    total = sum(len(tiles_through(trunk_input.trunk_key, layers, output.shape, side)) for layers in passes)
    done = itertools.count(1)
    return lambda tile: progress(next(done), total)

"""Per-pixel values of a layer's maps of large images, tile by tile, in the memory of one tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .custom_op import TrunkInput
from .modes import no_autograd
from .registry import Run
from .stages import Tap
from .tile_parts import own_part, tiles_through
from .tiles import Tile
from .trunk import holder


def tiled_maps(
    images: Sequence[Tensor],
    trunk_input: TrunkInput,
    layers: Sequence[str],
    side: int,
    pixels: Callable[..., Tensor],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Tensor]:
    """Maps (n, 1, H', W') of the layers.

    Args:
        images: One or two of a size, each (n, 3, H, W).
        side: Of a tile, about.
        pixels: (layer, the map (n, C, h, w) of each of the images) -> (n, 1, h, w).
        progress: Called with the tiles done and their total.
    """
    whole: dict[str, Tensor] = {}
    tiles = tiles_through(trunk_input.trunk_key, layers, images[0].shape, side)
    with no_autograd(images[0]):
        for done, tile in enumerate(tiles, start=1):
            held: list[dict[str, Tensor]] = [{} for _ in images[1:]]
            taps = [*map(holder, held), _filler(whole, tile, held, pixels)]
            # The tap of the last run sees the maps of the others.
            order = [*images[1:], images[0]]
            runs: list[Run] = [
                (trunk_input.normalized(x[tile.image]), own_part(tile, tap), False)
                for x, tap in zip(order, taps, strict=True)
            ]
            trunk_input.forward(runs, layers)
            progress(done, len(tiles))
    return [whole[layer] for layer in layers]


def _filler(
    whole: dict[str, Tensor], tile: Tile, held: Sequence[dict[str, Tensor]], pixels: Callable[..., Tensor]
) -> Tap:
    """A tap that computes the pixels of a tile's own region and writes them into the whole map."""

    def fill(layer: str, x: Tensor) -> bool:  # (n, C, h, w)
        part = pixels(layer, x, *(maps.pop(layer) for maps in held))
        if layer not in whole:
            whole[layer] = torch.empty((*part.shape[:2], *tile.size(layer)), dtype=part.dtype, device=part.device)
        whole[layer][tile.whole(layer)] = part
        return False

    return fill

"""Distances of two pictures by name, with a map over their pixels where there is one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks as checks
from ..engine.tiled_maps import tiled_maps
from ..losses import DISTS, LPIPS, PerceptualLoss
from ..losses.arguments import DEFAULT_LAYERS
from ..names import ChainName, TileSize
from ..networks import full_name, load_network

Metric = Literal["lpips", "stlpips", "dists", "content", "style"]
# The networks of each, its default first.
METRICS: dict[Metric, tuple[ChainName, ...]] = {
    "lpips": ("alex", "vgg16", "squeeze"),
    "stlpips": ("alex", "vgg16"),
    "dists": ("vgg16",),
    "content": ("vgg16", "vgg19", "vgg13", "vgg11"),
    "style": ("vgg16", "vgg19", "vgg13", "vgg11"),
}
WITH_PIXELS = ("lpips", "stlpips", "content")  # whose distance is a sum over pixels, so that there is a map
WITH_LAYERS: tuple[Metric, ...] = ("content", "style")  # their layers are the caller's choice

Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Comparison:
    """A distance of two pictures, each (1, 3, H, W) in [0, 1] on the device it was made for.

    Attributes:
        label: What it is, such as "lpips alex 0.1"; names the weights, too, where they are not the usual ones.
        distance: (output, target) -> a tensor of one number.
        pixels: (output, target) -> (1, 1, H, W), how far each pixel is off; None where the metric has no such map.
        any_size: Whether the two may differ in size.
    """

    label: str
    distance: Distance
    pixels: Distance | None = None
    any_size: bool = False


def comparison(
    metric: Metric = "lpips",
    *,
    network: ChainName | None = None,
    weights: str | os.PathLike[str] | None = None,
    layers: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    tile_size: TileSize | None = None,
) -> Comparison:
    """A distance by its name.

    Args:
        metric: "lpips"; "stlpips", the shift-tolerant LPIPS, whose weights come in a package; "dists"; "content", the
            squared error of features; "style", that of their Gram matrices.
        network: One of `METRICS`; None: the first.
        weights: Of the network, as in `load_network`; None: "imagenet"; "stlpips" has none but its own.
        layers: For "content" and "style", each weighing 1; None: those of `default_layers`.
        device: Where the network is to be.
        tile_size: Tile size of the loss, see `losses.EngineOptions`.

    Raises:
        ValueError: Invalid argument.
        OSError, ModuleNotFoundError: Weights are not available; the message says where to put them.
    """
    checks.check_choice("metric", metric, tuple(METRICS))
    network = METRICS[metric][0] if network is None else _known(metric, network)
    if layers is not None and metric not in WITH_LAYERS:
        raise ValueError(
            f"layers: expected none for {metric}, whose layers are fixed; {' and '.join(WITH_LAYERS)} take them"
        )
    if metric == "stlpips" and weights not in (None, "stlpips"):
        raise ValueError(f"weights: expected none for stlpips, which has its own, got {weights!r}; lpips takes others")
    if metric == "lpips" and weights == "stlpips":
        metric = "stlpips"
    source = weights or ("stlpips" if metric == "stlpips" else "imagenet")
    named = "" if source == "imagenet" or metric == "stlpips" else f" {Path(source).name}"
    if metric in ("lpips", "stlpips"):
        loss = LPIPS(network, weights=source, input_range=(0.0, 1.0), tile_size=tile_size)  # type: ignore[arg-type]
        loss = loss.to(device)
        if tile_size is not None and (why := loss.no_tiles(wants_gradient=False)):  # once, not with each pair
            raise ValueError(f"tile_size: expected None, since {why}; got {tile_size!r}")
        return _lpips(f"{metric} {network}{' 0.1' if metric == 'lpips' else ''}{named}", loss)
    if metric == "dists":
        return Comparison(f"dists{named}", DISTS(weights=source, tile_size=tile_size).to(device))
    layers = default_layers(metric, network) if layers is None else layers
    label = f"{metric} {network}{named} {' '.join(layers)}"
    if metric == "content":
        trunk = load_network(network, source, layers=layers)
        return _content(label, PerceptualLoss(trunk, content_layers=layers, tile_size=tile_size).to(device))
    if metric == "style":
        style = PerceptualLoss(
            network, weights=source, content_layers=None, style_layers=layers, tile_size=tile_size
        ).to(device)
        return Comparison(label, lambda output, target: style(output, style=target), any_size=True)
    raise checks.unknown("metric", metric, METRICS)


def default_layers(metric: Metric, network: str) -> tuple[str, ...]:
    """The layers of a network that "content" and "style" compare unless others are named."""
    layers = DEFAULT_LAYERS[network]
    return layers if metric == "style" else layers[2:3]


def _known(metric: Metric, network: str) -> ChainName:
    """A network, by any of its names, as `METRICS` names it."""
    for name in METRICS[metric]:
        if full_name(name) == full_name(network):
            return name
    raise ValueError(f"network: expected {' or '.join(METRICS[metric])} for {metric}, got {network!r}")


def _lpips(label: str, loss: LPIPS) -> Comparison:
    spatial = copy(loss)  # of the same network
    spatial.spatial = True
    return Comparison(label, loss, spatial)


def _content(label: str, loss: PerceptualLoss) -> Comparison:
    layers = loss.content_layers

    def error(layer: str, x: Tensor, y: Tensor) -> Tensor:  # (1, C, h, w) -> (1, 1, h, w)
        """Of each pixel's features, a mean over the channels."""
        return (x - y).square().mean(1, keepdim=True)

    def pixels(output: Tensor, target: Tensor) -> Tensor:
        """The errors of all layers, summed."""
        if side := loss.tile_side(output):
            maps = tiled_maps([output, target], loss.trunk_input(output), layers, side, error)
        else:
            features = (loss.target_features(images, layers) for images in (output, target))
            maps = [*map(error, layers, *features)]
        size = (output.shape[2], output.shape[3])
        return reduce(torch.add, (F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in maps))

    return Comparison(label, loss, pixels)

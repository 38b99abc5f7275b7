"""LPIPS and DISTS: the distance of pairs of images and its image gradient, by the packages that people use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

import perceptual_ops

from .. import peers
from ..case import BF16, FP32, NHWC, ImageCase, Variant, named, of_size, value_alone, value_and_gradient
from ..timing import Call
from . import Suite


def own_metric(metric: str, **settings: Any) -> Any:
    """A module of ours by the name of the metric, with random weights."""
    if metric == "dists":
        return perceptual_ops.DISTS(weights="random", **settings)
    networks = {"lpips-vgg": "vgg16", "lpips-alex": "alex"}
    if metric not in networks:
        raise ValueError(f"metric: expected dists, {' or '.join(networks)}; got {metric!r}")
    return perceptual_ops.LPIPS(networks[metric], weights="random", **settings)


def ours(dtype: torch.dtype, chunk: int | None = None) -> Variant:
    who = f"ours, chunk {chunk}" if chunk else "ours"
    return Variant(who, partial(own_metric, compute_dtype=dtype, chunk_size=chunk), dtype, chunk=chunk)


TILES = Variant("ours, tiles", partial(own_metric, tile_size="auto"), chunk=None, tiles=True)
OURS = (ours(FP32), ours(FP32, 1), ours(FP32, 4), ours(BF16), ours(BF16, 1), TILES)
# Ours by ordinary autograd over the reference, where a peer is not installed.
PLAIN = Variant("plain", partial(own_metric, engine="autograd", backend="reference"))
LPIPS = named(
    Variant("lpips", peers.lpips, package="lpips"),
    Variant("channels_last", partial(peers.lpips, layout=NHWC), layout=NHWC, package="lpips"),
    Variant("compiled", partial(peers.lpips, layout=NHWC), layout=NHWC, compiled=True, package="lpips"),
    Variant("torchmetrics", peers.torchmetrics_lpips, package="torchmetrics"),
    Variant("piq", peers.piq_lpips, package="piq"),
    Variant("pyiqa", peers.pyiqa_lpips, package="pyiqa"),
    Variant("channels_last", partial(peers.lpips, layout=NHWC), BF16, NHWC, package="lpips"),
    Variant("compiled", partial(peers.lpips, layout=NHWC), BF16, NHWC, compiled=True, package="lpips"),
    PLAIN,
    *OURS,
)
DISTS = named(
    Variant("DISTS_pytorch", peers.PeerDists, package="DISTS_pytorch"),
    Variant("torchmetrics", peers.TorchmetricsDists, package="torchmetrics"),
    Variant("piq", peers.piq_dists, package="piq"),
    PLAIN,
    *OURS,
)
ALEX = tuple(name for name in LPIPS if not name.startswith("piq"))  # which has VGG16 alone
FOR_ALEX = ours(FP32, 4).name  # whose maps are small
# As of the whole loss; the gradient through relu5_3 is up to 0.18 off in bf16, ours and lpips under autocast alike.
TOLERANCE = {FP32: (1e-5, 1e-2), BF16: (0.01, 0.25)}


@dataclass(frozen=True)
class MetricCase(ImageCase):
    """A batch of image pairs.

    Attributes:
        metric: "lpips-vgg", "lpips-alex" or "dists".
        gradient: Whether the gradient with respect to the output is wanted too, or the distance alone, under no_grad.
    """

    metric: str = field(default="lpips-vgg", kw_only=True)
    gradient: bool = field(default=True, kw_only=True)

    tolerance = TOLERANCE

    @property
    def name(self) -> str:
        return f"{self.metric}{'' if self.gradient else ' forward'} {self.size}"

    @property
    def has_small_maps(self) -> bool:
        return self.metric == "lpips-alex"

    def variant(self, name: str) -> Variant:
        return (DISTS if self.metric == "dists" else LPIPS)[name]

    def available(self, device_type: str) -> tuple[str, ...]:
        """Plain PyTorch only where it is the reference, as there is no other."""
        names = super().available(device_type)
        return tuple(name for name in names if name != PLAIN.name or name == names[0])

    def call(self, name: str, device: torch.device) -> Call:
        variant = self.variant(name)
        output, target = self.images((self.batch, self.batch), variant.layout, device)
        if self.metric != "dists":
            output, target = 2 * output - 1, 2 * target - 1
        module = variant.build(self.metric).to(device)

        def distance(output: Tensor, target: Tensor) -> Tensor:
            return module(output, target).mean()

        return (value_and_gradient if self.gradient else value_alone)(variant.applied(distance), output, target)


def of(metric: str, size: str, names: Sequence[str] = (), **settings: Any) -> MetricCase:
    """With all variants but tiles unless some are named."""
    every = DISTS if metric == "dists" else LPIPS if metric == "lpips-vgg" else ALEX
    left_out = (TILES.name,) if metric == "lpips-alex" else (TILES.name, FOR_ALEX)
    names = names or [name for name in every if name not in left_out]
    return MetricCase(tuple(names), metric=metric, **of_size(size), **settings)


SCALED = ("lpips fp32", "compiled fp32", "torchmetrics fp32", "piq fp32", "plain fp32", "ours fp32")
PAIRS = (
    of("lpips-vgg", "4x128x128", quick=True),
    of("dists", "4x128x128", quick=True),
    of("lpips-vgg", "4x256x256"),
    of("lpips-vgg", "4x256x256", gradient=False),
    of("lpips-alex", "4x256x256"),
    of("lpips-alex", "16x64x64"),
    of("dists", "4x256x256"),
    *(of("lpips-vgg", size, SCALED, rounds=3) for size in ("1x256x256", "16x256x256", "1x512x512", "1x1024x1024")),
    of("lpips-vgg", "1x1080x1920", rounds=3),
    of("lpips-vgg", "1x1080x1920", gradient=False, rounds=3),
)
SUITE = Suite("metrics", "LPIPS and DISTS", {"cpu": PAIRS, "cuda": PAIRS})

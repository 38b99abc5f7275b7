"""LPIPS and DISTS as data: batches of image pairs, and the rival ways to a distance and its image gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import perceptual_ops

from . import peers
from .timing import Call
from .whole_case import BF16, FP32, NHWC, Case, Variant, compiled, value_and_gradient


def own_metric(metric: str, **settings) -> Any:
    """A module of ours by the name of the metric, with random weights."""
    if metric == "dists":
        return perceptual_ops.DISTS(weights="random", **settings)
    networks = {"lpips-vgg": "vgg16", "lpips-alex": "alex"}
    if metric not in networks:
        raise ValueError(f"metric: expected dists, {' or '.join(networks)}; got {metric!r}")
    return perceptual_ops.LPIPS(networks[metric], weights="random", **settings)


def plain(metric: str) -> Any:
    return own_metric(metric, engine="autograd", backend="reference")


def ours(dtype: torch.dtype, chunk: int | None = None) -> Variant:
    def build(metric: str) -> Any:
        return own_metric(metric, compute_dtype=dtype, chunk_size=chunk)

    return Variant(build, dtype, chunk=chunk)


def net_of(metric: str) -> str:
    """The peers' name of the network."""
    return metric.removeprefix("lpips-")


VARIANTS = {
    "lpips": Variant(lambda metric: peers.lpips(net_of(metric)), package="lpips"),
    "torchmetrics": Variant(lambda metric: peers.torchmetrics_lpips(net_of(metric)), package="torchmetrics"),
    "lpips compiled bf16": Variant(
        lambda metric: peers.lpips(net_of(metric), NHWC), BF16, NHWC, compiled=True, package="lpips"
    ),
    "DISTS_pytorch": Variant(lambda metric: peers.PeerDists(), package="DISTS_pytorch"),
    "plain": Variant(plain),
    "ours fp32": ours(FP32),
    "ours bf16": ours(BF16),
    "ours fp32, chunk 1": ours(FP32, 1),
    "ours bf16, chunk 1": ours(BF16, 1),
}
RIVALS = ("lpips", "torchmetrics", "lpips compiled bf16", "DISTS_pytorch")
OURS = ("ours fp32", "ours bf16", "ours fp32, chunk 1", "ours bf16, chunk 1")
EVERY = ("lpips", "torchmetrics", "lpips compiled bf16", "plain", *OURS)

# As of the whole loss; the gradient through relu5_3 is up to 0.18 off in bf16, ours and lpips under autocast alike.
TOLERANCE = {FP32: (1e-5, 1e-2), BF16: (0.01, 0.25)}


@dataclass(frozen=True)
class MetricCase(Case):
    """A batch of image pairs.

    Attributes:
        metric: "lpips-vgg", "lpips-alex" or "dists".
        gradient: Whether the gradient by the output is wanted too, or the distance alone, under no_grad.
    """

    names: tuple[str, ...] = EVERY
    metric: str = "lpips-vgg"
    gradient: bool = True

    variants = VARIANTS
    tolerance = TOLERANCE

    @property
    def name(self) -> str:
        return f"{self.metric}{'' if self.gradient else ' forward'} {self.size}"

    @property
    def peer(self) -> str:
        return "DISTS_pytorch" if self.metric == "dists" else "lpips"

    def distinct(self, device_type: str) -> tuple[str, ...]:
        """Without peers that are not installed; plain PyTorch is the reference where there is none."""
        names = [name for name in super().distinct(device_type) if not peers.missing(VARIANTS[name].package)]
        return tuple(name for name in names if name != "plain" or self.peer not in names)

    def call(self, name: str, device: torch.device) -> Call:
        variant = VARIANTS[name]
        output, target = self.images((self.batch, self.batch), variant.layout, device)
        if self.metric != "dists":
            output, target = 2 * output - 1, 2 * target - 1
        module = variant.build(self.metric).to(device)

        def distance(output: Tensor, target: Tensor) -> Tensor:
            return module(output, target).float().mean()  # lpips under autocast is in bf16

        loss = compiled(distance, variant.dtype) if variant.compiled else distance
        if self.gradient:
            return value_and_gradient(loss, output, target)

        def forward() -> tuple[Tensor]:
            with torch.no_grad():
                return (loss(output, target),)

        return forward


SMALL, LARGE = (4, 256, 256), (1, 1080, 1920)
DISTS_NAMES = ("DISTS_pytorch", "plain", *OURS)
ALEX_NAMES = ("lpips", "plain", *OURS)
CASES = {
    "cpu": (
        MetricCase(*SMALL),
        MetricCase(*LARGE, rounds=3),
        MetricCase(*SMALL, gradient=False),
        MetricCase(*LARGE, rounds=3, gradient=False),
        MetricCase(*SMALL, ALEX_NAMES, metric="lpips-alex"),
        MetricCase(*SMALL, DISTS_NAMES, metric="dists"),
    ),
    "cuda": (
        MetricCase(*SMALL),
        MetricCase(*LARGE),
        MetricCase(*SMALL, gradient=False),
        MetricCase(*LARGE, gradient=False),
        MetricCase(*SMALL, ALEX_NAMES, metric="lpips-alex"),
        MetricCase(*SMALL, DISTS_NAMES, metric="dists"),
    ),
}

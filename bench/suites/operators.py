"""The operators alone, on features as VGG16 makes them: workloads at sizes of images.

A new row of the table is one `build` function and one line in `WORKLOADS`; a new size is one line in `IMAGES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import perceptual_ops
from perceptual_ops import reference

from .. import roofline
from ..case import SHORT, Case, Variant, named
from ..plain import CONTENT_WEIGHT, STYLE_WEIGHT
from ..timing import Call
from . import Suite

# Channels and stride of VGG16's taps; LPIPS and DISTS look one deeper.
TAPS = {"relu1_2": (64, 1), "relu2_2": (128, 2), "relu3_3": (256, 4), "relu4_3": (512, 8)}
CONTENT = "relu3_3"
METRIC_TAPS = TAPS | {"relu5_3": (512, 16)}

# Not 1, so that an operator that ignores its upstream gradient is found out.
UPSTREAM = 3.0


@dataclass(frozen=True)
class Images:
    """A batch of square images and how their features are held."""

    batch: int
    size: int
    dtype: torch.dtype
    layout: torch.memory_format = torch.contiguous_format

    def tap(self, name: str, batch: int | None = None) -> tuple[int, int, int, int]:
        """Shape (N, C, H, W) of a VGG16 tap."""
        channels, stride = METRIC_TAPS[name]
        return (batch or self.batch, channels, self.size // stride, self.size // stride)


@dataclass(frozen=True)
class Problem:
    """A workload on concrete tensors.

    Attributes:
        evaluate: (operators, leaves, *constants) -> outputs, where operators are `OURS` or the reference.
        leaves: The tensors whose gradient is taken.
        cost: Compulsory traffic and FLOP of one call.
        constants: Further arguments.
        upstream: One gradient for each output; none for a forward alone.
    """

    evaluate: Callable[..., list[Tensor]]
    leaves: list[Tensor]
    cost: roofline.Cost
    constants: tuple[Any, ...] = ()
    upstream: list[Tensor] | None = None

    def run(self, forward: Callable[..., list[Tensor]]) -> list[Tensor]:
        """Outputs, then gradients by the leaves, by a forward with its operators bound."""
        outputs = forward(self.leaves, *self.constants)
        if self.upstream is None:
            return outputs
        return [*outputs, *torch.autograd.grad(outputs, self.leaves, self.upstream)]


@dataclass(frozen=True)
class Workload:
    """A row of the table at any size of images."""

    name: str
    build: Callable[[Images, Draw], Problem]


OPERATORS = (
    "gram_matrix", "channel_statistics", "style_loss", "feature_loss", "total_variation", "lpips_distance",
    "dists_distance",
)  # fmt: skip
OURS = SimpleNamespace(**{name: partial(getattr(perceptual_ops, name), backend="native") for name in OPERATORS})
# An operator's module is the namespace it comes from.
VARIANTS = named(
    *(
        variant
        for dtype in SHORT
        for variant in (
            Variant("eager", lambda: reference, dtype),
            Variant("compiled", lambda: reference, dtype, compiled=True),
            Variant("ours", lambda: OURS, dtype),
        )
    )
)
# Largest difference from eager over the largest value, by the dtype of the result. fp32: another order of summation; a
# plain tensor-core accumulator already fails. 16 bits: two roundings of the largest value.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-6, torch.float16: 2**-9}


@dataclass(frozen=True)
class OperatorCase(Case):
    """A workload at one size of images, in one dtype."""

    workload: Workload = field(kw_only=True)
    images: Images = field(kw_only=True)

    variants = VARIANTS
    fresh = False

    @property
    def name(self) -> str:
        images = self.images
        layout = "NHWC" if images.layout == torch.channels_last else "NCHW"
        return f"{self.workload.name} {images.batch}x{images.size}x{images.size} {layout} {SHORT[images.dtype]}"

    @property
    def cost(self) -> roofline.Cost:
        return self.workload.build(self.images, Draw(self.images, torch.device("meta"))).cost

    def call(self, name: str, device: torch.device) -> Call:
        problem, variant = self.workload.build(self.images, Draw(self.images, device)), self.variant(name)
        forward = partial(problem.evaluate, variant.build())
        if variant.compiled:
            forward = torch.compile(forward, dynamic=False, fullgraph=True)
        return partial(problem.run, forward)

    def disagreement(self, name: str, actual: Tensor, expected: Tensor) -> float:
        """Largest difference over the largest expected value; NaN, which no tolerance admits, where that is 0."""
        if actual.shape != expected.shape or actual.dtype != expected.dtype:
            return float("inf")
        return ((actual.float() - expected.float()).abs().max() / expected.abs().max().float()).item()

    def allowed(self, name: str, expected: Sequence[Tensor]) -> Iterator[float]:
        return iter([TOLERANCE[result.dtype] for result in expected])


class Draw:
    """Random tensors from a fixed seed, in the dtype and layout of the images."""

    def __init__(self, images: Images, device: torch.device) -> None:
        self.images, self.device = images, device
        self.generator = None if device.type == "meta" else torch.Generator(device).manual_seed(0)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, fp32, contiguous."""
        return torch.randn(shape, device=self.device, generator=self.generator)

    def maps(self, shape: tuple[int, ...]) -> Tensor:
        """Values in [0, 1), as images have."""
        values = torch.rand(shape, device=self.device, generator=self.generator)
        return values.to(self.images.dtype).contiguous(memory_format=self.images.layout)

    def features(self, shape: tuple[int, ...]) -> Tensor:
        """As after a ReLU: three of four values are 0, channels differ in scale, so that Grams of two maps differ."""
        values = (self.normal(*shape) - 0.6745).relu_()
        values *= 0.5 + torch.rand((1, shape[1], 1, 1), device=self.device, generator=self.generator)
        return values.to(self.images.dtype).contiguous(memory_format=self.images.layout)

    def scalar(self) -> Tensor:
        return torch.tensor(UPSTREAM, device=self.device)


def gram_all(operators: Any, features: list[Tensor]) -> list[Tensor]:
    return [operators.gram_matrix(x) for x in features]


def statistics_all(operators: Any, features: list[Tensor]) -> list[Tensor]:
    return [operators.channel_statistics(x) for x in features]


def head_loss(operators: Any, features: list[Tensor], grams: list[Tensor], content: Tensor) -> list[Tensor]:
    style = operators.style_loss(features, grams)
    tap = features[list(TAPS).index(CONTENT)]
    return [STYLE_WEIGHT * style + CONTENT_WEIGHT * operators.feature_loss([tap], [content])]


def variation(operators: Any, images: list[Tensor]) -> list[Tensor]:
    return [operators.total_variation(x) for x in images]


def lpips(operators: Any, features: list[Tensor], targets: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    return [operators.lpips_distance(features, targets, weights, reduction="sum")]


def dists(operators: Any, features: list[Tensor], targets: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    return [operators.dists_distance(features, targets, weights, weights, reduction="sum")]


def build_gram(images: Images, draw: Draw, *, taps: Iterable[str], gradient: bool) -> Problem:
    shapes = [images.tap(name) for name in taps]
    cost = sum((roofline.gram(shape, images.dtype) for shape in shapes), roofline.Cost())
    features = [draw.features(shape) for shape in shapes]
    if not gradient:
        return Problem(gram_all, features, cost)
    cost = sum((roofline.gram_gradient(shape, images.dtype) for shape in shapes), cost)
    upstream = [draw.normal(batch, channels, channels) for batch, channels, _, _ in shapes]
    return Problem(gram_all, [x.requires_grad_() for x in features], cost, upstream=upstream)


def build_head(images: Images, draw: Draw) -> Problem:
    shapes = [images.tap(name) for name in TAPS]
    features = [draw.features(shape).requires_grad_() for shape in shapes]
    grams = [reference.gram_matrix(draw.features(images.tap(name, batch=1))) for name in TAPS]
    content = draw.features(images.tap(CONTENT))
    cost = roofline.head(shapes, [images.tap(CONTENT)], images.dtype)
    return Problem(head_loss, features, cost, (grams, content), [draw.scalar()])


def build_statistics(images: Images, draw: Draw) -> Problem:
    shapes = [images.tap(name) for name in TAPS]
    upstream = [draw.normal(shape[0], 2, shape[1]) for shape in shapes]
    features = [draw.features(shape).requires_grad_() for shape in shapes]
    return Problem(statistics_all, features, roofline.channel_statistics(shapes, images.dtype), upstream=upstream)


def build_variation(images: Images, draw: Draw) -> Problem:
    shape = (images.batch, 3, images.size, images.size)
    cost = roofline.total_variation(shape, images.dtype)
    return Problem(variation, [draw.maps(shape).requires_grad_()], cost, upstream=[draw.scalar()])


def build_metric(images: Images, draw: Draw, *, evaluate: Callable[..., list[Tensor]]) -> Problem:
    shapes = [images.tap(name) for name in METRIC_TAPS]
    features = [draw.features(shape).requires_grad_() for shape in shapes]
    targets = [draw.features(shape) for shape in shapes]
    weights = [draw.normal(shape[1]).abs() for shape in shapes]
    return Problem(evaluate, features, roofline.metric(shapes, images.dtype), (targets, weights), [draw.scalar()])


# In the order of the table: what matters most first, since a run that is cut short keeps what it has.
WORKLOADS = (
    Workload("head fwd+grad", build_head),
    Workload("gram fwd+grad", partial(build_gram, taps=TAPS, gradient=True)),
    Workload("gram fwd", partial(build_gram, taps=TAPS, gradient=False)),
    Workload("tv fwd+grad", build_variation),
)
QUICK = (WORKLOADS[0], WORKLOADS[-1])
# One tap at a time, at the first size only: relu1_2 is bound by memory, relu4_3 by its products.
TAP_WORKLOADS = tuple(Workload(f"gram {tap} fwd+grad", partial(build_gram, taps=[tap], gradient=True)) for tap in TAPS)
# As a trunk hands its maps over.
METRIC_WORKLOADS = (
    Workload("lpips fwd+grad", partial(build_metric, evaluate=lpips)),
    Workload("dists fwd+grad", partial(build_metric, evaluate=dists)),
    Workload("statistics fwd+grad", build_statistics),
)
METRIC_IMAGES = {
    "cpu": tuple(Images(4, 256, dtype, torch.channels_last) for dtype in (torch.float32, torch.bfloat16)),
    "cuda": (
        Images(8, 512, torch.bfloat16, torch.channels_last),
        *(Images(4, 256, dtype, torch.channels_last) for dtype in (torch.float32, torch.bfloat16)),
    ),
}

IMAGES = {
    "cpu": (
        Images(4, 256, torch.float32),
        Images(4, 256, torch.float32, torch.channels_last),
        Images(1, 64, torch.float32),
        Images(4, 256, torch.bfloat16),
    ),
    "cuda": (
        Images(8, 512, torch.bfloat16, torch.channels_last),
        Images(8, 512, torch.bfloat16),
        Images(8, 512, torch.float32),
        Images(4, 256, torch.bfloat16, torch.channels_last),
        Images(4, 256, torch.float32),
        Images(1, 64, torch.float32),
    ),
}
# Heads as the trunk hands maps over, in every dtype: of a large batch, a usual one, and one that launches bound.
HEAD_IMAGES = [
    Images(batch, size, dtype, torch.channels_last)
    for batch, size in ((8, 512), (8, 256), (1, 256))
    for dtype in (torch.bfloat16, torch.float16, torch.float32)
]


def case_of(workload: Workload, images: Images, quick: bool = False) -> OperatorCase:
    names = tuple(f"{who} {SHORT[images.dtype]}" for who in ("eager", "compiled", "ours"))
    return OperatorCase(names, workload=workload, images=images, quick=quick)


def catalogue(device_type: str) -> list[OperatorCase]:
    """Every case of a kind of device."""
    sizes = IMAGES[device_type]
    heads = [case_of(WORKLOADS[0], images) for images in HEAD_IMAGES] if device_type == "cuda" else []
    everywhere = [case_of(workload, images, workload in QUICK) for workload in WORKLOADS for images in sizes]
    metrics = [case_of(workload, images) for workload in METRIC_WORKLOADS for images in METRIC_IMAGES[device_type]]
    taps = [case_of(workload, sizes[0]) for workload in TAP_WORKLOADS]
    return list({case.name: case for case in heads + everywhere + metrics + taps}.values())


SUITE = Suite("operators", "Operators on features", {kind: catalogue(kind) for kind in IMAGES})

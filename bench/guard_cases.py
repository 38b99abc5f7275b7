"""What the regression guard counts, as data: small calls of fixed shapes, each a forward and its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import perceptual_ops as po

from .suites.operators import METRIC_WORKLOADS, OURS, WORKLOADS, Draw, Images, Workload

Call = Callable[[], Any]
NHWC = torch.channels_last
BY_NAME = {workload.name: workload for workload in (*WORKLOADS, *METRIC_WORKLOADS)}


@dataclass(frozen=True)
class Case:
    """A call to be counted.

    Attributes:
        name: In the table.
        build: Makes the call, on numbers that are the same every time.
        plain: Whether it runs in plain PyTorch, without the compiled library.
        instructions: Whether those of the compiled library are counted, too. Not of whole losses: valgrind takes a
            minute for the products of their convolutions, which are not ours.
    """

    name: str
    build: Callable[[], Call]
    plain: bool = False
    instructions: bool = False


def operator(workload: Workload, images: Images) -> Call:
    """An operator on features of VGG16's taps, as `make bench` times it."""
    problem = workload.build(images, Draw(images, torch.device("cpu")))
    return partial(problem.run, partial(problem.evaluate, OURS))


def feature_loss() -> Call:
    draw = Draw(Images(1, 64, torch.float32, NHWC), torch.device("cpu"))
    features, target = draw.features((1, 64, 32, 32)).requires_grad_(), draw.features((1, 64, 32, 32))
    return lambda: torch.autograd.grad(po.feature_loss([features], [target], distance="charbonnier"), features)


def activations() -> Call:
    """Bias, ReLU and max-pooling of one stage of a trunk and their gradients, in place on copies."""
    draw = Draw(Images(1, 64, torch.float32, NHWC), torch.device("cpu"))
    maps, bias = draw.maps((1, 64, 32, 32)) - 0.5, draw.normal(64)
    grad = draw.maps((1, 64, 16, 16))
    operators: Any = torch.ops.perceptual_ops

    def call() -> None:
        x = maps.clone()
        _, signs, codes = operators.bias_relu_pool_(x, bias, "max", 2, 2, True)
        operators.bias_relu_pool_backward_(x, grad, codes, signs, False, None, None, "max", 2, 2, None)

    return call


def loss_and_gradient(loss: nn.Module, size: int) -> Call:
    """Of a pair of images (1, 3, size, size), by the first."""
    generator = torch.Generator().manual_seed(0)
    output, target = torch.rand((2, 1, 3, size, size), generator=generator).unbind()
    output.requires_grad_()
    return lambda: torch.autograd.grad(loss(output, target), output)


def perceptual_loss() -> Call:
    """Content and a kept style on the first layers of VGG16, with total variation."""
    style = {"relu1_2": 1.0, "relu2_2": 1.0}
    loss = po.PerceptualLoss(
        "vgg16", weights="random", content_layers={"relu2_2": 1.0}, style_layers=style, tv_weight=1e-3
    )
    loss.set_style(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    return loss_and_gradient(loss, 32)


def lpips() -> Call:
    return loss_and_gradient(po.LPIPS("alex", weights="random", input_range=(0, 1), reduction="mean"), 64)


def dists() -> Call:
    return loss_and_gradient(po.DISTS(weights="random", input_range=(0, 1), reduction="mean"), 16)


class Residual(nn.Module):
    """A network that is no sequence of layers, so that it runs as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:  # (N, 3, H, W) -> (N, 16, H, W)
        x = self.first(images).relu()
        return x + self.second(x)


def module_loss() -> Call:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = Residual().eval()
    loss = po.PerceptualLoss(network, content_layers=["first", "second"], mean=(0.5,) * 3, std=(0.25,) * 3)
    return loss_and_gradient(loss, 32)


IMAGES = {
    "head fwd+grad": Images(1, 32, torch.float32, NHWC),
    "gram fwd+grad": Images(1, 32, torch.bfloat16, NHWC),
    "lpips fwd+grad": Images(1, 64, torch.float32, NHWC),
    "dists fwd+grad": Images(1, 64, torch.float32, NHWC),
    "tv fwd+grad": Images(1, 128, torch.float32),
}
OPERATORS: dict[str, Callable[[], Call]] = {
    **{
        f"{name} {str(images.dtype).removeprefix('torch.')}": partial(operator, BY_NAME[name], images)
        for name, images in IMAGES.items()
    },
    "feature loss fwd+grad float32": feature_loss,
    "activations fwd+grad float32": activations,
}
CASES = (
    *(Case(name, build, instructions=True) for name, build in OPERATORS.items()),
    Case("PerceptualLoss", perceptual_loss),
    Case("LPIPS", lpips),
    Case("DISTS", dists),
    Case("PerceptualLoss of a module", module_loss),
    Case("PerceptualLoss in plain PyTorch", perceptual_loss, plain=True),
)

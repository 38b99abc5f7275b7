"""Style transfer by optimising the picture itself (Gatys, Ecker and Bethge 2016, arXiv 1508.06576)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import _checks as checks
from ..losses import PerceptualLoss
from ..networks import FeatureNetwork, load_network
from ..networks.weights import WeightSource
from ..ops import gram_matrix

CONTENT_LAYERS = ("relu3_3",)
STYLE_LAYERS = ("relu1_1", "relu1_2", "relu2_2", "relu3_3", "relu4_3")
OPTIMIZERS = ("adam", "lbfgs")
INITS = ("content", "noise")


@dataclass(frozen=True)
class StyleTransferResult:
    """What `stylize` made.

    Attributes:
        image: The stylised picture (1, 3, H, W) in [0, 1].
        history: Term -> its value at each evaluation of the loss: "loss", and the terms of `PerceptualLoss`.
        snapshots: Evaluation -> the picture whose loss was evaluated there (1, 3, H, W) in [0, 1], on the CPU.
    """

    image: Tensor
    history: dict[str, list[float]] = field(default_factory=dict)
    snapshots: dict[int, Tensor] = field(default_factory=dict)


def style_transfer_loss(
    content: Tensor,
    style: Tensor,
    *,
    network: str = "vgg16",
    weights: WeightSource = "imagenet",
    content_layers: Sequence[str] = CONTENT_LAYERS,
    style_layers: Sequence[str] = STYLE_LAYERS,
    style_weight: float = 10.0,
    tv_weight: float = 1.0,
) -> PerceptualLoss:
    """A loss that weighs content against style alike for every network, size and pair of pictures.

    Features of one network may be a hundred times those of another, and Grams go with their square; so each layer's
    term is relative here: the squared error divided by the square of its target, 1 where the output has no features at
    all. A part is the mean of its layers, and the loss is content + style_weight * style + tv_weight * tv, where tv is
    the squared difference of neighbouring pixels, in [0, 1], per value of the picture.

    Args:
        content, style: Pictures (1, 3, H, W) in [0, 1], on one device; their sizes may differ.
        network, weights: As in `load_network`.
        content_layers, style_layers: Names of layers.
        style_weight, tv_weight: Weights of the parts against the content's 1; no unit.

    Returns:
        A loss on the device of the pictures that has both as its targets.

    Raises:
        TypeError, ValueError, OSError: As `PerceptualLoss`; also a layer that sees nothing in its picture.
    """
    trunk = load_network(network, weights, layers=[*content_layers, *style_layers]).to(content.device)
    content_energy = _energies("content_layers", trunk, content, content_layers, lambda features: features)
    style_energy = _energies("style_layers", trunk, style, style_layers, gram_matrix)
    loss = PerceptualLoss(
        trunk,
        content_layers={layer: 1 / (len(content_energy) * energy) for layer, energy in content_energy.items()},
        style_layers={layer: 1 / (len(style_energy) * energy) for layer, energy in style_energy.items()},
        style_weight=style_weight,
        tv_weight=tv_weight / content.numel(),
    ).to(content.device)
    loss.set_content(content)
    loss.set_style(style)
    return loss


def stylize(
    loss: PerceptualLoss,
    content: Tensor,
    *,
    steps: int = 150,
    optimizer: str = "adam",
    lr: float = 0.02,
    init: str = "content",
    seed: int = 0,
    snapshots_at: Collection[int] = (),
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> StyleTransferResult:
    image = _initial(content, init, seed)
    history: dict[str, list[float]] = {}
    snapshots: dict[int, Tensor] = {}

    def evaluate() -> Tensor:
        image.grad = None
        picture = image if optimizer == "adam" else image.clamp(0, 1)
        value, terms = loss(picture, return_terms=True)
        value.backward()
        step = len(history.get("loss", ()))
        if step in snapshots_at:
            snapshots[step] = picture.detach().to("cpu", copy=True)
        named = {"loss": value.detach(), **terms}
        numbers = dict(zip(named, torch.stack(list(named.values())).tolist(), strict=True))
        for name, number in numbers.items():
            history.setdefault(name, []).append(number)
        if on_step is not None:
            on_step(step, numbers)
        return value

    if optimizer == "adam":
        adam = torch.optim.Adam([image], lr=lr)
        for step in range(steps):
            for group in adam.param_groups:
                group["lr"] = lr * (0.5 * (1 + math.cos(math.pi * step / steps)) if SCHED == "cos" else 1.0)
            evaluate()
            adam.step()
            with torch.no_grad():
                image.clamp_(0, 1)
    else:
        torch.optim.LBFGS(
            [image],
            max_iter=steps,
            max_eval=steps,
            tolerance_grad=0,
            tolerance_change=0,
            history_size=HIST,
            line_search_fn="strong_wolfe",
        ).step(evaluate)
    return StyleTransferResult(image.detach().clamp(0, 1), history, snapshots)


SCHED = "cos"
HIST = 20


def _initial(content: Tensor, init: str, seed: int) -> Tensor:
    if init == "noise":
        generator = torch.Generator().manual_seed(seed)
        start = torch.rand(content.shape, generator=generator).to(content)
    else:
        start = content.detach().clone()
    return start.requires_grad_()


def _energies(
    name: str,
    trunk: FeatureNetwork,
    image: Tensor,
    layers: Sequence[str],
    statistic: Callable[[Tensor], Tensor],
) -> dict[str, float]:
    """Layer -> mean square of its statistic of the image."""
    with torch.no_grad():
        features = trunk(image, layers)
    return {layer: float(statistic(features[layer]).square().mean()) for layer in layers}

"""Style transfer by optimising the picture itself (Gatys, Ecker and Bethge 2016, "Image Style Transfer Using CNNs")."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

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

StepCallback = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class StyleTransferResult:
    """What `stylize` made.

    Attributes:
        image: The stylised picture (1, 3, H, W) in [0, 1], on the device of the content.
        history: Term -> its values, one for each evaluation of the loss: "loss", and the terms of `PerceptualLoss`.
        snapshots: Evaluation, from 0 -> the picture (1, 3, H, W) in [0, 1] that was evaluated, on the CPU.
    """

    image: Tensor
    history: dict[str, list[float]]
    snapshots: dict[int, Tensor]


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
    """A loss whose weights mean the same for every network, size and pair of pictures.

    Features of one network may be a hundred times those of another, and Grams grow with their square. So each layer's
    term is relative here: its squared error divided by the square of its target. 0 is a perfect match, 1 an output that
    excites nothing. The loss is content + style_weight * style + tv_weight * tv: content and style are means over their
    layers, tv is the squared difference of neighbouring pixels in [0, 1] per value of the picture.

    Args:
        content, style: Pictures (1, 3, H, W) in [0, 1], on one device; their sizes may differ.
        network, weights: As in `load_network`.
        content_layers, style_layers: Names of layers, at least one each.
        style_weight, tv_weight: Weights of these parts against 1 for the content; no unit.

    Returns:
        The loss, on the device of the pictures.

    Raises:
        TypeError, ValueError, OSError, ModuleNotFoundError: As `PerceptualLoss`; also a layer that a picture does not
            excite.
    """
    trunk = load_network(network, weights, layers=[*content_layers, *style_layers])
    # Features follow the layout of the weights: 15 % less time for VGG16 at 256 x 256 on two CPU cores.
    trunk = trunk.to(content.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs
    content_energy = _energies("content_layers", trunk, content, content_layers, lambda features: features)
    style_energy = _energies("style_layers", trunk, style, style_layers, gram_matrix)
    return PerceptualLoss(
        trunk,
        content_layers={layer: 1 / (energy * len(content_energy)) for layer, energy in content_energy.items()},
        style_layers={layer: 1 / (energy * len(style_energy)) for layer, energy in style_energy.items()},
        style_weight=style_weight,
        tv_weight=tv_weight / content.numel(),
    ).to(content.device)


def stylize(
    content: Tensor,
    style: Tensor,
    *,
    loss: PerceptualLoss | None = None,
    steps: int = 150,
    optimizer: str = "lbfgs",
    lr: float = 0.02,
    init: str = "content",
    seed: int = 0,
    snapshots_at: Collection[int] = (),
    on_step: StepCallback | None = None,
) -> StyleTransferResult:
    """Paints the content in the manner of the style.

    Args:
        content, style: Pictures (1, 3, H, W) in [0, 1], on one device; their sizes may differ.
        loss: What is minimised, on the same device; these pictures become its targets. Default: that of
            `style_transfer_loss`, with ImageNet weights.
        steps: Evaluations of the loss and its gradient. "lbfgs" finishes the line search it is in, a few more.
        optimizer: "adam" or "lbfgs", which in as many evaluations reached a lower loss on every pair that was tried.
        lr: Adam's first step size, in units of the picture's values; it falls to 0 along a cosine.
        init: "content" starts at the content, "noise" at Gaussian noise; both are moved to the style's palette.
        seed: Of the noise. On a CPU the same arguments give the same bits.
        snapshots_at: The evaluations, from 0, whose picture is kept.
        on_step: Called after each evaluation with its number, from 0, and its terms.

    Raises:
        TypeError, ValueError: An argument is not as described.
    """
    checks.check_choice("optimizer", optimizer, OPTIMIZERS)
    checks.check_choice("init", init, INITS)
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps: expected a whole number above 0, got {steps!r}")
    loss = style_transfer_loss(content, style) if loss is None else _checked_loss(loss)
    loss.set_content(content)
    loss.set_style(style)
    start = content.detach() if init == "content" else _noise_like(content, seed)
    image = _in_palette(start, style).requires_grad_()
    objective = _Objective(loss, image, snapshots_at, on_step)
    if optimizer == "adam":
        _minimize_with_adam(objective, image, steps, lr)
    else:
        _minimize_with_lbfgs(objective, image, steps)
    return StyleTransferResult(image.detach().clamp(0, 1), objective.history, objective.snapshots)


class _Objective:
    """The loss as a closure for optimizers: evaluates it, makes the gradient, and keeps a record of both."""

    def __init__(
        self, loss: PerceptualLoss, image: Tensor, snapshots_at: Collection[int], on_step: StepCallback | None
    ) -> None:
        self.history: dict[str, list[float]] = {}
        self.snapshots: dict[int, Tensor] = {}
        self._loss, self._image = loss, image
        self._snapshots_at, self._on_step = snapshots_at, on_step
        self._evaluations = 0

    def __call__(self) -> Tensor:
        self._image.grad = None
        # Inside the function that is minimised, so that L-BFGS sees one function: clamping its picture behind its back
        # would spoil the curvature it has gathered. Adam's is in range already.
        picture = self._image.clamp(0, 1)
        value, terms = self._loss(picture, return_terms=True)
        value.backward()
        self._record(picture.detach(), {"loss": value.detach(), **terms})
        return value

    def _record(self, picture: Tensor, terms: dict[str, Tensor]) -> None:
        step, self._evaluations = self._evaluations, self._evaluations + 1
        values = torch.stack(list(terms.values())).tolist()  # one wait for the device, not one for each term
        numbers: dict[str, float] = dict(zip(terms, values, strict=True))
        for name, number in numbers.items():
            self.history.setdefault(name, []).append(number)
        if step in self._snapshots_at:
            self.snapshots[step] = picture.cpu()
        if self._on_step is not None:
            self._on_step(step, numbers)


def _minimize_with_adam(objective: _Objective, image: Tensor, steps: int, lr: float) -> None:
    optimizer = torch.optim.Adam([image], lr=checks.check_positive("lr", lr))
    # Adam moves every pixel by about lr, however small its gradient: without the decay that stays visible as grain.
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * step / steps)) / 2)
    for _ in range(steps):
        objective()
        optimizer.step()
        schedule.step()
        # A pixel out of range gets no gradient through the objective's clamp, so it would never come back.
        with torch.no_grad():
            image.clamp_(0, 1)


def _minimize_with_lbfgs(objective: _Objective, image: Tensor, steps: int) -> None:
    # The tolerances are absolute, but a pixel's gradient shrinks with the size of the picture: they would end it early.
    torch.optim.LBFGS(
        [image],
        max_iter=steps,
        max_eval=steps,
        tolerance_grad=0,
        tolerance_change=0,
        history_size=20,
        line_search_fn="strong_wolfe",
    ).step(objective)


def _noise_like(content: Tensor, seed: int) -> Tensor:
    """Drawn on the CPU, so that every device starts alike."""
    return torch.randn(content.shape, generator=torch.Generator().manual_seed(seed)).to(content)


def _in_palette(image: Tensor, style: Tensor) -> Tensor:
    """The image with the mean and the standard deviation of each of the style's channels, in [0, 1].

    A channel that a flat, bright patch does not excite passes no gradient through its ReLU: nothing in the loss would
    tell that patch to become as dark as the style. So the palette is right from the start.
    """
    deviation, mean = torch.std_mean(image, dim=(2, 3), correction=0, keepdim=True)
    style_deviation, style_mean = torch.std_mean(style, dim=(2, 3), correction=0, keepdim=True)
    return ((image - mean) * (style_deviation / deviation.clamp_min(1e-6)) + style_mean).clamp(0, 1)


def _energies(
    name: str,
    trunk: FeatureNetwork,
    picture: Tensor,
    layers: Sequence[str],
    statistic: Callable[[Tensor], Tensor],
) -> dict[str, float]:
    """Layer -> mean square of the statistic of its features of the picture."""
    with torch.no_grad():
        features = trunk(picture, layers)
        energies = {layer: float(statistic(features[layer]).square().mean()) for layer in layers}
    for layer, energy in energies.items():
        if not 0 < energy < math.inf:
            raise ValueError(f"{name}: expected layers that the picture excites, {layer} gives {energy}; leave it out")
    return energies


def _checked_loss(loss: PerceptualLoss) -> PerceptualLoss:
    if loss.input_range != (0.0, 1.0) or loss.reduction == "none":
        raise ValueError(
            f"loss: expected input_range=(0, 1) and reduction 'mean' or 'sum', "
            f"got {loss.input_range} and {loss.reduction!r}"
        )
    return loss

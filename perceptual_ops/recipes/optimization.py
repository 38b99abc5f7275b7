"""A picture as what is optimised: the loss as a closure, and the two optimizers that serve."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, get_args

import torch
from torch import Tensor

from .. import _checks as checks
from ..engine.perceptual_op import trunk_styles
from ..engine.tiled_maps import tiled_maps
from ..losses import PerceptualLoss
from ..ops import gram_matrix

Optimizer = Literal["adam", "lbfgs"]
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
# What L-BFGS remembers of a past step is two pictures. With 3 steps it falls nearly as fast as with 20.
MAX_STEPS, MIN_STEPS = 20, 3
MEMORY = 2**31  # bytes of all that it remembers, where that is more than the least

REMEDY = "try smaller weights of its parts, or a smaller step size"

StepCallback = Callable[[int, dict[str, float]], None]


class DivergenceError(ValueError):
    """A run diverged to NaN or infinity; there is no result."""


@dataclass(frozen=True)
class Optimized:
    """What an optimisation made.

    Attributes:
        image: The picture (1, 3, H, W) in [0, 1], on the device of what it was made from.
        history: Term -> its values, one for each evaluation of the loss: "loss", and the terms of `PerceptualLoss`.
        snapshots: Evaluation, from 0 -> the picture (1, 3, H, W) in [0, 1] that was evaluated, on the CPU.
    """

    image: Tensor
    history: dict[str, list[float]]
    snapshots: dict[int, Tensor]


class Objective:
    """The loss as a closure for optimizers: evaluates it, makes the gradient, and keeps a record of both.

    Args:
        loss: Whose style is kept.
        image: (1, 3, H, W), what is optimised.
        snapshots_at, on_step: As in `stylize`.
        content: (1, 3, H, W); None: the one that the loss keeps, or none.
    """

    def __init__(
        self,
        loss: PerceptualLoss,
        image: Tensor,
        snapshots_at: Collection[int],
        on_step: StepCallback | None,
        content: Tensor | None = None,
    ) -> None:
        self.history: dict[str, list[float]] = {}
        self.snapshots: dict[int, Tensor] = {}
        self._loss, self._image, self._content = loss, image, content
        self._snapshots_at, self._on_step = snapshots_at, on_step
        self._evaluations = 0

    def __call__(self) -> Tensor:
        self._image.grad = None
        # Inside the function that is minimised, so that L-BFGS sees one function: clamping its picture behind its back
        # would spoil the curvature it has gathered. Adam's is in range already.
        picture = self._image.clamp(0, 1)
        value, terms = self._loss(picture, self._content, return_terms=True)
        value.backward()
        self._record(picture.detach(), {"loss": value.detach(), **terms})
        return value

    def _record(self, picture: Tensor, terms: dict[str, Tensor]) -> None:
        step, self._evaluations = self._evaluations, self._evaluations + 1
        values = torch.stack(list(terms.values())).tolist()  # one wait for the device, not one for each term
        numbers: dict[str, float] = dict(zip(terms, values, strict=True))
        if not math.isfinite(numbers["loss"]):
            raise DivergenceError(f"the loss is no number any more at evaluation {step + 1}: {REMEDY}")
        for name, number in numbers.items():
            self.history.setdefault(name, []).append(number)
        if step in self._snapshots_at:
            self.snapshots[step] = picture.cpu()
        if self._on_step is not None:
            self._on_step(step, numbers)


def minimize(objective: Objective, image: Tensor, steps: int, optimizer: Optimizer, lr: float) -> None:
    """Changes the image in place, by as many evaluations of the objective. DivergenceError where that fails."""
    if optimizer == "adam":
        minimize_with_adam(objective, image, steps, lr)
    else:
        minimize_with_lbfgs(objective, image, steps)
    if not image.isfinite().all():  # by the last step, which nothing evaluates
        raise DivergenceError(f"the picture is no numbers any more after {steps} evaluations: {REMEDY}")


def minimize_with_adam(objective: Objective, image: Tensor, steps: int, lr: float) -> None:
    if checks.check_positive("lr", lr) > 1:
        raise ValueError(f"lr: expected at most 1, the range of a picture's values, got {lr!r}")
    optimizer = torch.optim.Adam([image], lr=lr)
    # Adam moves every pixel by about lr, however small its gradient: without the decay that stays visible as grain.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        objective()
        optimizer.step()
        schedule.step()
        # A pixel out of range gets no gradient through the objective's clamp, so it would never come back.
        with torch.no_grad():
            image.clamp_(0, 1)


def minimize_with_lbfgs(objective: Objective, image: Tensor, steps: int) -> None:
    # The tolerances are absolute, but a pixel's gradient shrinks with the size of the picture: they would end it early.
    torch.optim.LBFGS(
        [image],
        max_iter=steps,
        max_eval=steps,
        tolerance_grad=0,
        tolerance_change=0,
        history_size=steps_remembered(image),
        line_search_fn="strong_wolfe",
    ).step(objective)


def steps_remembered(image: Tensor) -> int:
    """How many past steps L-BFGS remembers: 20 of pictures up to 4.4 megapixels in fp32, then fewer, at least 3."""
    return min(max(MEMORY // (2 * image.nbytes), MIN_STEPS), MAX_STEPS)


def noise_like(content: Tensor, seed: int) -> Tensor:
    """Drawn on the CPU, so that every device starts alike."""
    return torch.randn(content.shape, generator=torch.Generator().manual_seed(seed)).to(content)


def energies_of(name: str, loss: PerceptualLoss, picture: Tensor, part: str) -> dict[str, float]:
    """Layer -> mean square of its features of a picture (N, 3, H, W), or of their Gram matrix.

    Args:
        name: Of the argument that errors are about.
        loss: Whose layers they are.
        part: "content", features of its content layers, or "style", Grams of its style layers.
    """
    layers = loss.content_layers if part == "content" else loss.style_layers
    found: dict[str, list[float]] = {layer: [] for layer in layers}
    with torch.no_grad():
        for one in picture.split(1):
            loss.checked_images("images", one, layers)
            for layer, squares in zip(layers, _squares(loss, one, layers, part), strict=True):
                found[layer].append(squares.mean().item())
    energies = {layer: fmean(values) for layer, values in found.items()}
    for layer, energy in energies.items():
        if not 0 < energy < math.inf:
            raise ValueError(f"{name}: expected layers that the picture excites, {layer} gives {energy}; leave it out")
    return energies


def _squares(loss: PerceptualLoss, picture: Tensor, layers: Sequence[str], part: str) -> list[Tensor]:
    """Of each layer numbers whose mean is that of its squared features, or the squares of its Gram matrix."""
    side, trunk_input = loss.tile_side(picture), loss.trunk_input(picture)
    if part == "style":
        if side:
            grams = trunk_styles(picture, trunk_input, layers, loss.gram_normalize, False)
        else:
            grams = [gram_matrix(x, loss.gram_normalize) for x in loss.target_features(picture, layers)]
        return [gram.square() for gram in grams]
    if side:
        return tiled_maps(
            [picture], trunk_input, layers, side, lambda layer, x: x.float().square().mean(1, keepdim=True)
        )
    return [x.float().square() for x in loss.target_features(picture, layers)]

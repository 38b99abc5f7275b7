"""Style transfer by optimising the picture itself (Gatys, Ecker and Bethge 2016, "Image Style Transfer Using CNNs")."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks as checks
from ..losses import PerceptualLoss
from ..names import ChainName, TileSize
from ..networks import load_network
from ..networks.weights import WeightSource
from .optimization import (
    OPTIMIZERS,
    Objective,
    Optimized,
    Optimizer,
    StepCallback,
    energies_of,
    minimize,
    noise_like,
)

CONTENT_LAYERS = ("relu3_3",)
STYLE_LAYERS = ("relu1_1", "relu1_2", "relu2_2", "relu3_3", "relu4_3")
Init = Literal["content", "noise"]
INITS: tuple[Init, ...] = get_args(Init)
SMALLEST_SIDE = 32  # pixels, of the coarsest size
COARSEST = 512  # pixels of the longer side at most, of the coarsest size of a command: about what the network sees


def style_transfer_loss(
    content: Tensor,
    style: Tensor,
    *,
    network: ChainName = "vgg16",
    weights: WeightSource = "imagenet",
    content_layers: Sequence[str] = CONTENT_LAYERS,
    style_layers: Sequence[str] = STYLE_LAYERS,
    style_weight: float = 10.0,
    tv_weight: float = 1.0,
    tile_size: TileSize | None = None,
) -> PerceptualLoss:
    """A loss whose weights mean the same for every network, size and pair of pictures.

    Features of one network may be a hundred times those of another, and Grams grow with their square. So each layer's
    term is relative here: its squared error divided by the square of its target. 0 is a perfect match, 1 an output that
    excites nothing. The loss is content + style_weight * style + tv_weight * tv: content and style are means over their
    layers, tv is the squared difference of neighbouring pixels in [0, 1] per value of the picture.

    Args:
        content: Picture (1, 3, H, W) in [0, 1], or (N, 3, H, W): typical ones of what a network is to be trained on.
        style: Picture (1, 3, H, W) in [0, 1] on the same device, of any size.
        network, weights: As in `load_network`.
        content_layers, style_layers: Names of layers, at least one each.
        style_weight, tv_weight: Weights of these parts against 1 for the content; no unit.
        tile_size: Tile size of the loss, see `losses.EngineOptions`.

    Returns:
        The loss, on the device of the pictures.

    Raises:
        TypeError, ValueError, OSError, ModuleNotFoundError: As `PerceptualLoss`; also a layer that a picture does not
            excite.
    """
    style_weight, tv_weight = (
        checks.check_weight("style_weight", style_weight),
        checks.check_weight("tv_weight", tv_weight),
    )
    trunk = load_network(network, weights, layers=[*content_layers, *style_layers])
    # Features follow the layout of the weights: 15 % less time for VGG16 at 256 x 256 on two CPU cores.
    trunk = trunk.to(content.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs
    loss = PerceptualLoss(
        trunk,
        content_layers=content_layers,
        style_layers=style_layers,
        style_weight=style_weight,
        tv_weight=tv_weight / content[0].numel(),
        tile_size=tile_size,
    ).to(content.device)
    energies = energies_of("content_layers", loss, content, "content")
    loss.content_layers = {layer: 1 / (energy * len(energies)) for layer, energy in energies.items()}
    energies = energies_of("style_layers", loss, style, "style")
    loss.style_layers = {layer: 1 / (energy * len(energies)) for layer, energy in energies.items()}
    return loss


def stylize(
    content: Tensor,
    style: Tensor,
    *,
    loss: PerceptualLoss | None = None,
    steps: int = 150,
    optimizer: Optimizer = "lbfgs",
    lr: float = 0.02,
    init: Init | Tensor = "content",
    seed: int = 0,
    snapshots_at: Collection[int] = (),
    on_step: StepCallback | None = None,
) -> Optimized:
    """Paints the content in the manner of the style.

    A picture that the loss takes in tiles needs the memory of one tile and of six pictures with "adam"; with "lbfgs" of
    eight, and of two for each past step that it remembers. These are 20, or as many as take 2 GiB (of pictures above
    4.4 megapixels), at least 3.

    Args:
        content, style: Pictures (1, 3, H, W) in [0, 1], on one device; their sizes may differ.
        loss: What is minimised, on the same device; these pictures become its targets. Default: that of
            `style_transfer_loss`, with ImageNet weights.
        steps: Evaluations of the loss and its gradient. "lbfgs" finishes the line search it is in, a few more.
        optimizer: "adam" or "lbfgs", which in as many evaluations reached a lower loss on every pair that was tried.
        lr: Adam's first step size, in units of the picture's values; it falls to 0 along a cosine.
        init: "content" starts at the content, "noise" at Gaussian noise; both are moved to the style's palette. Or the
            picture to start at, shaped like the content, on its device.
        seed: Seed of the noise. On a CPU the same arguments give the same bits.
        snapshots_at: The evaluations, from 0, whose picture is kept.
        on_step: Called after each evaluation with its number, from 0, and its terms.

    Raises:
        TypeError, ValueError: Invalid argument.
        DivergenceError: The loss or the picture became NaN or infinity; a ValueError.
    """
    checks.check_seed(seed)
    checks.check_choice("optimizer", optimizer, OPTIMIZERS)
    start = _start(init, content, style, seed)
    checks.check_whole("steps", steps, 1)
    loss = style_transfer_loss(content, style) if loss is None else _checked_loss(loss)
    in_tiles = loss.tile_side(content) is not None
    if not in_tiles:
        loss.set_content(content)
    loss.set_style(style)
    image = start.clone(memory_format=torch.contiguous_format).requires_grad_()  # L-BFGS takes no other layout
    # The features of a large content would be several times the picture: each tile makes its own.
    objective = Objective(loss, image, snapshots_at, on_step, content if in_tiles else None)
    minimize(objective, image, steps, optimizer, lr)
    return Optimized(image.detach().clamp(0, 1), objective.history, objective.snapshots)


def stylize_coarse_to_fine(
    content: Tensor,
    style: Tensor,
    *,
    scales: int = 2,
    make_loss: Callable[[Tensor, Tensor], PerceptualLoss] = style_transfer_loss,
    steps: int | Sequence[int] = 150,
    optimizer: Optimizer = "lbfgs",
    lr: float = 0.02,
    init: Init | Tensor = "content",
    seed: int = 0,
    snapshots_at: Collection[int] = (),
    on_step: StepCallback | None = None,
) -> Optimized:
    """`stylize` at a small size first, whose result, enlarged, is where the next size starts.

    A network sees a few hundred pixels at most, so in a large picture it paints small strokes only; what is painted at
    a small size becomes large (Gatys et al. 2017, "Controlling Perceptual Factors in Neural Style Transfer"). Where it
    has settled, a few steps add what is fine at the next.

    Args:
        content, style: As in `stylize`. A style smaller than the content is not made smaller than a small content.
        scales: Sizes; each half the next, the last that of the content.
        make_loss: The loss for a content and a style of one size. Large pictures go through it in tiles.
        steps: At every size, or those of each, the coarsest first.
        optimizer, lr, init, seed, snapshots_at, on_step: As in `stylize`.

    Returns:
        The picture of the last size; history and snapshots of all, one after the other. Evaluations are numbered on
        from size to size; "lbfgs" may make a few more than steps at each.

    Raises:
        TypeError, ValueError: As `stylize`; also more scales than the pictures have pixels for.
    """
    checks.check_whole("scales", scales, 1)
    of_scales = steps_of(steps, scales)
    smallest = _smallest_side(content, style, scales)
    if scales > 1 and smallest < SMALLEST_SIDE:
        raise ValueError(
            f"scales: expected a smallest size of at least {SMALLEST_SIDE} pixels, {scales} give {smallest}"
        )
    history: dict[str, list[float]] = {}
    snapshots: dict[int, Tensor] = {}
    start = _start(init, content, style, 0) if isinstance(init, Tensor) else init
    for level, count in zip(reversed(range(scales)), of_scales, strict=True):
        small_content = _resized(content, content.shape[2] >> level, content.shape[3] >> level)
        small_style = _resized(style, *_style_size(style, content, level))
        before = len(history.get("loss", ()))
        if isinstance(start, Tensor):
            start = _resized(start, *small_content.shape[2:])
        result = stylize(
            small_content,
            small_style,
            loss=make_loss(small_content, small_style),
            steps=count,
            optimizer=optimizer,
            lr=lr,
            init=start,
            seed=seed,
            snapshots_at=[step - before for step in snapshots_at],
            on_step=None if on_step is None else partial(_numbered_on, on_step, before),
        )
        start = result.image
        for term, values in result.history.items():
            history.setdefault(term, []).extend(values)
        snapshots |= {before + step: image for step, image in result.snapshots.items()}
    return Optimized(result.image, history, snapshots)


def _numbered_on(on_step: StepCallback, before: int, step: int, terms: dict[str, float]) -> None:
    on_step(before + step, terms)


def steps_of(steps: int | Sequence[int], scales: int) -> list[int]:
    """The steps of each of the sizes, by one number for all or a number for each."""
    if not isinstance(steps, Sequence):
        return [steps] * scales
    if isinstance(steps, str) or len(steps) != scales:
        raise ValueError(f"steps: expected a number, or one for each of the {scales} sizes; got {steps!r}")
    return [*steps]


def fitting_scales(content: Tensor, style: Tensor) -> int:
    """How many sizes bring the coarsest of a content (1, 3, H, W) to 512 pixels, or fewer where a side is too short."""
    scales = max(1, 1 + math.ceil(math.log2(max(content.shape[2:]) / COARSEST)))
    while scales > 1 and _smallest_side(content, style, scales) < SMALLEST_SIDE:
        scales -= 1
    return scales


def _smallest_side(content: Tensor, style: Tensor, scales: int) -> int:
    """Of both at the coarsest size."""
    height, width = content.shape[2:]
    return min(min(height, width) >> (scales - 1), *_style_size(style, content, scales - 1))


def _style_size(style: Tensor, content: Tensor, level: int) -> tuple[int, int]:
    """(H, W) of the style halved as often as `level` says, as long as it is larger than the content is then."""
    height, width = style.shape[2:]
    least = min(1.0, (max(content.shape[2:]) >> level) / max(height, width))
    return max(height >> level, int(height * least)), max(width >> level, int(width * least))


def _start(init: Init | Tensor, content: Tensor, style: Tensor, seed: int) -> Tensor:
    """The picture to start at, shaped like the content."""
    if isinstance(init, Tensor):
        if init.shape != content.shape or init.device != content.device:
            raise ValueError(
                f"init: expected a picture like the content, {tuple(content.shape)} on {content.device}, "
                f"got {tuple(init.shape)} on {init.device}"
            )
        return init.detach().to(content.dtype)
    checks.check_choice("init", init, INITS)
    return _in_palette(content.detach() if init == "content" else noise_like(content, seed), style)


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    """(N, 3, H, W) -> (N, 3, height, width) in [0, 1]."""
    if image.shape[2:] == (height, width):
        return image
    resized = F.interpolate(image, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0, 1)


def _in_palette(image: Tensor, style: Tensor) -> Tensor:
    """The image with the mean and the standard deviation of each of the style's channels, in [0, 1].

    A channel that a flat, bright patch does not excite passes no gradient through its ReLU: nothing in the loss would
    tell that patch to become as dark as the style. So the palette is right from the start.
    """
    deviation, mean = torch.std_mean(image, dim=(2, 3), correction=0, keepdim=True)
    style_deviation, style_mean = torch.std_mean(style, dim=(2, 3), correction=0, keepdim=True)
    return ((image - mean) * (style_deviation / deviation.clamp_min(1e-6)) + style_mean).clamp(0, 1)


def _checked_loss(loss: PerceptualLoss) -> PerceptualLoss:
    if loss.input_range != (0.0, 1.0) or loss.reduction == "none":
        raise ValueError(
            f"loss: expected input_range=(0, 1) and reduction 'mean' or 'sum', "
            f"got {loss.input_range} and {loss.reduction!r}"
        )
    return loss

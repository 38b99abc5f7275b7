"""What a layer knows of a picture: pictures made from its features alone, or from their Gram matrix alone.

Mahendran and Vedaldi 2015, "Understanding Deep Image Representations by Inverting Them"; figures 2 and 3 of Johnson,
Alahi and Fei-Fei 2016.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from .. import _checks as checks
from ..losses import PerceptualLoss
from ..names import ChainName
from ..networks import load_network
from ..networks.weights import WeightSource
from .optimization import OPTIMIZERS, Objective, Optimized, Optimizer, StepCallback, energies_of, minimize, noise_like

Kind = Literal["content", "style"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def invert(
    picture: Tensor,
    layer: str,
    *,
    kind: Kind = "content",
    network: ChainName = "vgg16",
    weights: WeightSource = "imagenet",
    tv_weight: float = 1.0,
    steps: int = 200,
    optimizer: Optimizer = "lbfgs",
    lr: float = 0.02,
    seed: int = 0,
    on_step: StepCallback | None = None,
) -> Optimized:
    """A picture from noise that a layer cannot tell from another.

    What is minimised is the squared error over the square of the target, so 0 is a perfect match and 1 a picture that
    excites nothing, plus tv_weight times the squared difference of neighbouring pixels per value of the picture.

    Args:
        picture: (1, 3, H, W) in [0, 1].
        layer: A layer of the network, by name.
        kind: "content": the features, which know where everything is. "style": their Gram matrix, which does not.
        network, weights: As in `load_network`.
        tv_weight: Weight of smoothness, at least 0, which decides what a layer does not know; with 0.01 that stays
            noise.
        steps, optimizer, lr, on_step: As in `stylize`.
        seed: Seed of the noise.

    Raises:
        TypeError, ValueError, OSError, ModuleNotFoundError: As `PerceptualLoss`; also a layer that the picture does not
            excite.
        DivergenceError: The loss or the picture became NaN or infinity; a ValueError.
    """
    checks.check_choice("kind", kind, KINDS)
    checks.check_choice("optimizer", optimizer, OPTIMIZERS)
    checks.check_whole("steps", steps, 1)
    checks.check_weight("tv_weight", tv_weight)
    checks.check_seed(seed)
    trunk = load_network(network, weights, layers=[layer]).to(picture.device)
    loss = PerceptualLoss(
        trunk,
        content_layers=[layer] if kind == "content" else None,
        style_layers=[layer] if kind == "style" else None,
        tv_weight=tv_weight / picture.numel(),
    ).to(picture.device)
    (energy,) = energies_of("layer", loss, picture, kind).values()
    if kind == "content":
        loss.content_layers = {layer: 1 / energy}
        loss.set_content(picture)
    else:
        loss.style_layers = {layer: 1 / energy}
        loss.set_style(picture)
    noise = 0.5 + 0.1 * noise_like(picture, seed)
    image = noise.clamp(0, 1).requires_grad_()
    objective = Objective(loss, image, (), on_step)
    minimize(objective, image, steps, optimizer, lr)
    return Optimized(image.detach().clamp(0, 1), objective.history, objective.snapshots)

"""One part of a perceptual loss, with the settings of the moment, by the lean engine."""

from __future__ import annotations

from torch import Tensor

from ..engine.perceptual_op import perceptual_loss
from ..engine.terms import Part, Terms
from ..losses import PerceptualLoss
from ..names import GramNormalization

_NO_PART = Part((), (), "mse", 0.0)


def lean_content(loss: PerceptualLoss, part: Part, x: Tensor, y: Tensor) -> Tensor:  # (N, C, H, W) -> (N)
    """The content loss of x and its target y, with the gradients made at once where they are wanted."""
    return perceptual_loss(x, y, [], [], loss.trunk_input(x), Terms(part, _NO_PART, "none", 0.0))[0]


def lean_style(
    loss: PerceptualLoss, part: Part, gram_normalize: GramNormalization, x: Tensor, y: Tensor
) -> Tensor:  # -> (N)
    """The style loss of x and the Grams of y, to which no gradient flows."""
    grams = loss.target_grams(y, part.layers, gram_normalize)
    return perceptual_loss(x, None, [], grams, loss.trunk_input(x), Terms(_NO_PART, part, gram_normalize, 0.0))[0]

"""BasicSR's PerceptualLoss (basicsr/losses/basic_loss.py, basicsr/archs/vgg_arch.py)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .. import _checks as checks
from .. import ops, reference
from ..losses import PerceptualLoss as _PerceptualLoss
from ..networks.weights import WeightSource
from ._images import check_pair

NETWORKS = ("vgg11", "vgg13", "vgg16", "vgg19")
DISTANCES = {"l1": "l1", "l2": "mse", "fro": "sse"}  # the Frobenius norm is the root of a sum of squares


class PerceptualLoss(nn.Module):
    """BasicSR's `PerceptualLoss`: (perceptual loss, style loss), each a scalar, or None if its weight is not above 0.

    "l1" and "l2" are means over the batch. "fro" is the norm of the whole batch's difference, so it grows with the
    batch; the gradient of a norm that is 0 is 0. Grams are divided by C H W. A conv layer is taken before its ReLU.

    Otherwise than in BasicSR: every `vgg_type` gets its own weights, by default torchvision's, and no file is looked
    for under `experiments/pretrained_models` (BasicSR loads VGG19's from there whatever the type; name the path as
    `weights` to use it); batch-norm variants are refused; `layer_weights` must name a layer.

    Args:
        layer_weights: Layer name -> weight, for both losses.
        vgg_type: "vgg11", "vgg13", "vgg16" or "vgg19".
        use_input_norm: Whether images in [0, 1] are normalised by ImageNet's mean and standard deviation.
        range_norm: Whether images come in [-1, 1].
        perceptual_weight, style_weight: Factors of the two losses.
        criterion: "l1", "l2" or "fro".
        weights: Weights of the network, see `perceptual_ops.load_network`.
        compute_dtype, chunk_size, backend: As of `perceptual_ops.PerceptualLoss`; chunk_size serves the lean engine.
        engine: "lean", "autograd", or None: "lean" for one of the two losses. Both together, and "fro", take one pass
            of ordinary autograd, since their gradients are weighted by numbers that only the backward knows.

    Raises:
        TypeError, ValueError, OSError: As `perceptual_ops.PerceptualLoss`.
    """

    def __init__(
        self,
        layer_weights: Mapping[str, float],
        vgg_type: str = "vgg19",
        use_input_norm: bool = True,
        range_norm: bool = False,
        perceptual_weight: float = 1.0,
        style_weight: float = 0.0,
        criterion: str = "l1",
        *,
        weights: WeightSource = "imagenet",
        compute_dtype: torch.dtype | None = None,
        chunk_size: int | None = None,
        engine: str | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        checks.check_choice("vgg_type", vgg_type, NETWORKS)
        checks.check_choice("criterion", criterion, tuple(DISTANCES))
        self.layer_weights = dict(layer_weights)
        self.perceptual_weight = checks.check_number("perceptual_weight", perceptual_weight)
        self.style_weight = checks.check_number("style_weight", style_weight)
        self.criterion_type = criterion
        self._distance = DISTANCES[criterion]
        self._is_whole = criterion == "fro" or (self.perceptual_weight > 0 and self.style_weight > 0)
        if engine == "lean" and self._is_whole:
            raise ValueError(
                'engine: expected None or "autograd" for two losses at once or criterion="fro", whose gradients are '
                'weighted in the backward; got "lean"'
            )
        self._loss = _PerceptualLoss(
            vgg_type,
            weights=weights,
            content_layers=self.layer_weights if self.perceptual_weight > 0 else None,
            style_layers=self.layer_weights if self.perceptual_weight <= 0 else None,
            content_distance=self._distance,
            style_distance=self._distance,
            input_range=(-1.0, 1.0) if range_norm else (0.0, 1.0),
            mean=None if use_input_norm else (0.0, 0.0, 0.0),
            std=None if use_input_norm else (1.0, 1.0, 1.0),
            compute_dtype=compute_dtype,
            chunk_size=chunk_size,
            engine=engine or "lean",
            backend=backend,
        )

    def forward(self, x: Tensor, gt: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The perceptual and the style loss of a batch of images.

        Args:
            x: Images (N, 3, H, W); the gradient flows to them.
            gt: Their targets, of the same shape; no gradient flows to them.
        """
        if self.perceptual_weight <= 0 and self.style_weight <= 0:
            return None, None
        x, gt = (self._loss._images(name, images, self.layer_weights) for name, images in (("x", x), ("gt", gt)))
        # Grams are as large as there are channels.
        check_pair({"x": x, "gt": gt}, same_size=self.perceptual_weight > 0)
        gt = gt.detach()
        if self._is_whole:
            return self._both(x, gt)
        if self.perceptual_weight > 0:
            return self.perceptual_weight * self._loss(x, gt), None
        return None, self.style_weight * self._loss(x, style=gt)

    def _both(self, x: Tensor, gt: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Every loss asked for, of one pass of the network over x and one over gt."""
        layers, loss = list(self.layer_weights), self._loss
        maps = loss._features(x, layers)
        with torch.no_grad():  # the same way as x, so that an x like gt is at 0, where a norm is steep
            targets = loss._features(gt, layers)
        perceptual = style = None
        if self.perceptual_weight > 0:
            perceptual = self.perceptual_weight * self._total(maps, targets)
        if self.style_weight > 0:
            sides = [[ops.gram_matrix(x, backend=loss.backend)[:, None] for x in side] for side in (maps, targets)]
            style = self.style_weight * self._total(*sides)
        return perceptual, style

    def _total(self, maps: list[Tensor], targets: list[Tensor]) -> Tensor:  # L x (N, C, H, W), or Grams (N, 1, C, C)
        """The weighted sum over the layers."""
        weights, distance, backend = list(self.layer_weights.values()), self._distance, self._loss.backend
        if distance != "sse":
            return ops.feature_loss(maps, targets, weights, distance, backend=backend)
        squares = [
            ops.feature_loss([x], [y], distance=distance, reduction="sum", backend=backend)
            for x, y in zip(maps, targets, strict=True)
        ]
        return torch.stack(
            [weight * reference.root(square) for weight, square in zip(weights, squares, strict=True)]
        ).sum()

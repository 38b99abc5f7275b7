"""LPIPS and DISTS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Never, Unpack

from ... import _checks as checks
from ..._settings import Fixed, fixed, setting
from ...losses import DISTS as _DISTS
from ...losses import LPIPS as _LPIPS
from ...losses import PerceptualLoss
from ...losses.dists import LAYERS
from ...losses.lpips import LAYERS as LPIPS_LAYERS
from ...losses.options import EngineOptions, takes_engine_options
from ...names import Reduction
from ...networks import IMAGENET_MEAN, IMAGENET_STD, dists_weights, linear_weights
from ...networks.metric_weights import DistsSource, LinearSource
from ...networks.weights import WeightSource
from ...reference import DISTS_EPS
from .arguments import Distance, DistanceName, fused_name
from .content import ContentLoss
from .networks import order_of, trunk_for

LARGEST = 256  # of DISTS's images, on their shorter side

# The lean engine has learned weights of its own, so those that are read are copies.
_learned = fixed("weights", read=lambda self: tuple(weight.clone() for weight in self._weights))


class LPIPS(ContentLoss):
    """piq's `LPIPS`, over VGG16.

    The linear weights are version 0.1 of the package lpips, which piq's own file repeats; `linear` takes that file. As
    in piq it is a `ContentLoss`, with its settings and methods but for `weights`, which are fixed.

    Args:
        replace_pooling: Whether max-pooling is replaced by 2x2 average pooling.
        distance: "mse", or "mae" for the absolute differences of the unit features.
        reduction: "mean" or "sum" over the batch, or "none".
        mean, std: Normalisation of images in [0, 1].
        weights, linear: As of `perceptual_ops.LPIPS`; linear may be the list of tensors that piq downloads.
        options: Options of the engine, see `perceptual_ops.losses.EngineOptions`. `replace_pooling`, settings that are
            not LPIPS's and methods of a subclass take ordinary autograd, which tile_size is refused with.

    Raises:
        TypeError, ValueError, OSError: As `perceptual_ops.LPIPS`.
    """

    weights: Fixed[tuple[Tensor, ...]] = _learned
    linear: Fixed[Never] = fixed("linear")

    @takes_engine_options
    def __init__(
        self,
        replace_pooling: bool = False,
        distance: DistanceName = "mse",
        reduction: Reduction = "mean",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        *,
        weights: WeightSource = "imagenet",
        linear: LinearSource = True,
        **options: Unpack[EngineOptions],
    ) -> None:
        super(ContentLoss, self).__init__()
        channels = LPIPS_LAYERS["vgg16"]
        numbers = linear_weights(linear, "vgg16", "0.1", weights, list(channels.values()))
        self._hold(
            tuple(channels), [number.view(1, -1, 1, 1) for number in numbers], distance, reduction, mean, std,
            normalize_features=True,
        )  # fmt: skip
        self._set_taps(order_of("vgg16"))
        settings: dict[str, Any] = {"mean": mean, "std": std, **options}
        if replace_pooling:
            trunk = trunk_for("vgg16", weights, self._all_taps, self.replace_pooling)
            self._loss = PerceptualLoss(trunk, content_layers=self._all_taps, **settings)
        else:
            self._loss = _LPIPS("vgg16", weights=weights, linear=linear, input_range=(0.0, 1.0), **settings)

    def _values(self, x: Tensor, y: Tensor) -> Tensor:  # (N, 3, H, W) -> (N)
        is_lpips = self.normalize_features and fused_name(self.distance) == "mse" and not self._is_overridden()
        return self._loss(x, y) if is_lpips and isinstance(self._loss, _LPIPS) else super()._values(x, y)


class DISTS(ContentLoss):
    """piq's `DISTS`: images whose shorter side is above 256 are scaled down to it first, bilinearly.

    Kept for parity with piq unless `sum_of_distances` is set: reduction="sum" gives 1 - the sum of the similarities,
    which is N - 1 below the sum of the distances. As in piq it is a `ContentLoss`, with its settings and methods but
    for `weights` and `distance`, which are fixed.

    Args:
        reduction: "mean" or "sum" over the batch, or "none".
        mean, std: Normalisation of images in [0, 1].
        sum_of_distances: Whether reduction="sum" sums the distances.
        resize: Whether large images are scaled down.
        weights: Weights of VGG16, see `perceptual_ops.load_network`.
        alpha_beta: The learned numbers: None for those of DISTS, divided by their sum; or, for instance, piq's own
            file, by its path or as a state dict, which is taken as it is, as piq does.
        options: Options of the engine, see `perceptual_ops.losses.EngineOptions`.

    Raises:
        TypeError, ValueError, OSError: As `perceptual_ops.DISTS`.
    """

    weights: Fixed[tuple[Tensor, ...]] = _learned
    distance: Fixed[Distance] = fixed("distance")
    alpha_beta: Fixed[Never] = fixed("alpha_beta")
    sum_of_distances: bool = setting("sum_of_distances", checks.check_flag)
    resize: bool = setting("resize", checks.check_flag)

    @takes_engine_options
    def __init__(
        self,
        reduction: Reduction = "mean",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        *,
        sum_of_distances: bool = False,
        resize: bool = True,
        weights: WeightSource = "imagenet",
        alpha_beta: DistsSource = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        super(ContentLoss, self).__init__()
        alpha, beta = dists_weights(alpha_beta)
        numbers = torch.cat([*alpha, *beta]).double()
        if alpha_beta is None:
            numbers = numbers / numbers.sum()
        by_layer = [part.view(1, -1, 1, 1) for part in numbers.split([len(part) for part in (*alpha, *beta)])]
        self._hold(LAYERS, by_layer, "mse", reduction, mean, std, normalize_features=False, allows_mismatch=True)
        self._set_taps(order_of("vgg16"))
        self.sum_of_distances = sum_of_distances
        self.resize = resize
        self._loss = _DISTS(
            weights=weights, alpha_beta=alpha_beta, normalize_weights=alpha_beta is None, mean=mean, std=std,
            **options,
        )  # fmt: skip
        # piq takes the weighted similarities from 1, ours from the sum of the weights.
        self._offset = 0.0 if alpha_beta is None else 1 - numbers.sum().item()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The distance of images x and y (N, 3, H, W): a scalar, or (N,) for reduction="none"."""
        x, y = self._checked(x, y)
        if self.resize and min(x.shape[2:]) > LARGEST:
            scale = LARGEST / min(x.shape[2:])
            x, y = (F.interpolate(images, scale_factor=scale, mode="bilinear") for images in (x, y))
        loss = checks.reduce(self._values(x, y), self.reduction)
        return loss + 1 - x.shape[0] if self.reduction == "sum" and not self.sum_of_distances else loss

    def _values(self, x: Tensor, y: Tensor) -> Tensor:  # (N, 3, H, W) -> (N)
        if not self.normalize_features and not self._is_overridden():
            assert isinstance(self._loss, _DISTS)
            return self._loss(x, y) + self._offset
        self._refuse_tiles()
        return 1 - self._weighted(self.compute_distance(self.get_features(x), self.get_features(y)))

    def get_features(self, x: Tensor) -> list[Tensor]:
        """The images x (N, 3, H, W) themselves, and the layers' maps."""
        return [x, *super().get_features(x)]

    def compute_distance(self, x_features: list[Tensor], y_features: list[Tensor]) -> list[Tensor]:
        """The similarities of each layer's means, then of its structures, each (N, C, 1, 1); in fp32 at least."""
        means, structures = [], []
        for x, y in zip(x_features, y_features, strict=True):
            x, y = (side.to(checks.accumulator_dtype(side)) for side in (x, y))
            x_mean, y_mean = (side.mean((2, 3), keepdim=True) for side in (x, y))
            x_error, y_error = x - x_mean, y - y_mean
            x_var, y_var, covariance = (
                product.mean((2, 3), keepdim=True)
                for product in (x_error.square(), y_error.square(), x_error * y_error)
            )
            means.append((2 * x_mean * y_mean + DISTS_EPS) / (x_mean.square() + y_mean.square() + DISTS_EPS))
            structures.append((2 * covariance + DISTS_EPS) / (x_var + y_var + DISTS_EPS))
        return means + structures

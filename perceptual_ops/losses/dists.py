"""DISTS, deep image structure and texture similarity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import Never, Unpack

from .. import _checks as checks
from .. import metric_ops
from .._settings import Fixed, fixed
from ..engine.pair import IMAGE
from ..names import Reduction
from ..networks import load_network
from ..networks.metric_weights import DistsSource, dists_weights
from ..networks.weights import WeightSource
from .metric import MetricLoss
from .options import EngineOptions, takes_engine_options
from .sample_weight import Numbers
from .samples import Images, values_of

LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")


class DISTS(MetricLoss):
    """Distance of two images by structure and texture (Ding et al. 2020, arXiv 2004.07728), as a metric and as a loss.

    The images themselves and five ReLUs of a VGG16 with L2 pooling, compared channel by channel by their means and
    their covariance over the pixels: `dists_distance`. It tolerates resampled texture, and is 0 for equal images. The
    numbers are those of the package DISTS-pytorch, which makes no gradient unless asked to; ours always does.

    Args:
        weights: Weights of VGG16, see `load_network`.
        alpha_beta: The learned numbers: None for the official ones, or a path or state dict with `alpha` and `beta`,
            (1, 1475, 1, 1) each.
        normalize_weights: Whether they are divided by the sum of all, as the paper does. Without, the distance is that
            weighted sum as it is.
        input_range: Values of black and white in the images; not checked.
        reduction: "none", or "mean" or "sum" over the batch.
        mean, std: Normalisation of an image in [0, 1] for the network, three numbers each. None: ImageNet's.
        options: Options of the engine, see `losses.EngineOptions`.

    Raises:
        TypeError, ValueError: Invalid argument; the message names it.
        OSError, ModuleNotFoundError: Weights are not available; the message says where to put them.
    """

    metric: str = "dists"

    alpha_beta: Fixed[Never] = fixed("alpha_beta")
    normalize_weights: Fixed[Never] = fixed("normalize_weights")

    @takes_engine_options
    def __init__(
        self,
        *,
        weights: WeightSource = "imagenet",
        alpha_beta: DistsSource = None,
        normalize_weights: bool = True,
        input_range: tuple[float, float] = (0.0, 1.0),
        reduction: Reduction = "none",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        if isinstance(weights, str) and weights == "stlpips":
            raise ValueError(
                'weights: expected those of a VGG16 without blur, such as "imagenet", since DISTS has a pooling of its '
                'own; got "stlpips"'
            )
        with torch.inference_mode(False):  # or it could not serve in training later
            trunk = load_network("vgg16", weights, layers=LAYERS, pooling="l2")
            alpha, beta = dists_weights(alpha_beta)
            numbers = [number.double() for number in (*alpha, *beta)]
            if normalize_weights:
                total = torch.cat(numbers).sum()
                if not 0 < total.item() < math.inf:
                    raise ValueError(
                        f"alpha_beta: expected numbers whose sum is above 0 to divide by, got {total.item()}; pass "
                        "normalize_weights=False to take them as they are"
                    )
                numbers = [number / total for number in numbers]
        super().__init__(
            trunk, [IMAGE, *LAYERS], numbers, trunk.mean if mean is None else mean, trunk.std if std is None else std,
            input_range, reduction, **options,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, reduction={self.reduction!r}"

    def forward(
        self,
        output: Images,
        target: Images,
        *,
        frames: bool = False,
        sample_weight: Numbers | None = None,
    ) -> Tensor:
        """The distance of image pairs, which is symmetric. That of clips is the mean over their frames.

        Args:
            output, target: Images (N, 3, H, W), or (N, 1, H, W) for grey, in input_range, or clips (N, 3, T, H, W);
                either may be a batch of 1. Or two lists of N images (3, H, W) or (1, 3, H, W) of any sizes. Gradients
                flow to those that require them.
            frames: Whether to return the distance of each frame instead of their mean; for reduction="none".
            sample_weight: (N,) numbers by which the distances are multiplied; pairs of weight 0 do not run. See
                `PerceptualLoss.forward`, which says more of clips and lists, too.

        Returns:
            (N,), (N, T) with frames, or a scalar for another reduction; fp32 (fp64 for a network in fp64).

        Raises:
            TypeError, ValueError: Images of a wrong type, shape, device or size.
        """
        (distance,) = values_of(self, self._of_images, self._pair(output, target), [], frames, sample_weight)
        return distance

    def _of_images(self, images: list[Tensor], _beside: list[Tensor]) -> list[Tensor]:  # (M)
        """An `OfImages`: the distance."""
        output, target = [self._in_unit_range(x) for x in images]
        if self.runs_lean(output=output, target=target):
            return [self._lean_distance(output, target)]
        by_images = self._distance(slice(0, 1), [output], [target.to(output.dtype)])
        pairs = self._graph_pairs(output, target)
        by_features = torch.cat([self._distance(slice(1, None), *maps) for maps in pairs])
        return [by_images + by_features]

    def _range_of_input(self) -> tuple[float, float]:
        return 0.0, 1.0  # to which `forward` brings images, since they are compared there

    def _in_unit_range(self, images: Tensor) -> Tensor:
        low, high = self.input_range
        if (low, high) == (0.0, 1.0):
            return images
        return (images.to(checks.accumulator_dtype(images)) - low) / (high - low)

    def _distance(self, layers: slice, xs: list[Tensor], ys: list[Tensor]) -> Tensor:  # L x (n, C, H, W) -> (n)
        numbers = self.learned_weights(checks.accumulator_dtype(xs[0]))
        half = len(self.layers)
        alpha, beta = numbers[:half][layers], numbers[half:][layers]
        return metric_ops.dists_terms(xs, ys, alpha, beta, self.backend)[0]

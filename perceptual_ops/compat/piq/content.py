"""ContentLoss and StyleLoss."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ... import _checks as checks
from ... import ops, reference
from ...losses import PerceptualLoss
from ...metric_ops import lpips_terms
from ...networks import IMAGENET_MEAN, IMAGENET_STD
from ...networks.weights import WeightSource
from .._images import check_pair
from .networks import order_of, trunk_for

DISTANCES = {"mse": "mse", "mae": "l1"}
EPS = 1e-10  # beside the length of a pixel's channels


class ContentLoss(nn.Module):
    """piq's `ContentLoss`: for each sample sum_l mean over (H, W) of the sum over channels of w_l d(x_l, y_l).

    The distance is summed over the channels, so it is C times that of `perceptual_ops.feature_loss`. Repeated from piq
    unless `as_named` is set: a layer whose successor works in place, so every conv layer, gives what its successor made
    of it (`normalize_features` comes before that); and weights go to the layers in the network's order, whatever the
    order they are named in.

    As in piq the network follows the images to their device. Otherwise than in piq: a module is copied, frozen and in
    eval mode; nothing behind the deepest layer is run, so smaller images serve; unknown layers are refused.

    Args:
        feature_extractor: "vgg16", "vgg19", or a module, whose children are run one after the other.
        layers: Names such as "relu3_3"; of a module, names of its children.
        weights: For each layer a number, or a tensor that broadcasts with (N, C, H, W); no gradient flows to it.
        replace_pooling: Whether max-pooling is replaced by 2x2 average pooling.
        distance: "mse" or "mae".
        reduction: "mean" or "sum" over the batch, or "none".
        mean, std: Normalisation of images in [0, 1].
        normalize_features: Whether the channels of each pixel are divided by their length.
        allow_layers_weights_mismatch: Whether layers without a weight, and weights without a layer, are left out.
        as_named: Whether each layer gives what its name says, and has the weight at its place in `weights`.
        network_weights: Weights of a network by name, see `perceptual_ops.load_network`.
        compute_dtype, chunk_size, engine, backend: As of `perceptual_ops.PerceptualLoss`. Normalised features, weights
            that are tensors, and your own module take ordinary autograd.

    Raises:
        TypeError, ValueError, OSError: As `perceptual_ops.PerceptualLoss`.
    """

    _part = "content"

    def __init__(
        self,
        feature_extractor: str | nn.Module = "vgg16",
        layers: Collection[str] = ("relu3_3",),
        weights: Sequence[float | Tensor] = (1.0,),
        replace_pooling: bool = False,
        distance: str = "mse",
        reduction: str = "mean",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        normalize_features: bool = False,
        allow_layers_weights_mismatch: bool = False,
        *,
        as_named: bool = False,
        network_weights: WeightSource = "imagenet",
        compute_dtype: torch.dtype | None = None,
        chunk_size: int | None = None,
        engine: str = "lean",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        checks.check_choice("distance", distance, tuple(DISTANCES))
        if isinstance(layers, str):
            raise TypeError(f"layers: expected a list of layer names, got the string {layers!r}")
        if len(layers) != len(weights) and not allow_layers_weights_mismatch:
            raise ValueError(f"weights: expected {len(layers)}, one for each layer; got {len(weights)}")
        order = order_of(feature_extractor)
        taps = order.taps(layers, late=not normalize_features)
        pairs = list(zip(list(layers) if as_named else taps, _checked_weights(weights), strict=False))
        self.normalize_features = normalize_features
        self.reduction = reduction
        self._distance = DISTANCES[distance]
        self._taps = [tap for tap, _ in pairs]
        # Numbers for the layers; empty where a weight is a tensor.
        self._numbers = [weight for _, weight in pairs if isinstance(weight, float)]
        self._numbers = self._numbers if len(self._numbers) == len(pairs) else []
        factors = order.channels if self._part == "content" else dict.fromkeys(self._taps, 1)
        # PerceptualLoss takes numbers; for a content also those of the channels.
        self._is_simple = bool(self._numbers and factors) and not normalize_features
        by_tap = dict.fromkeys(self._taps, 0.0)
        for tap, number in zip(self._taps, self._numbers, strict=False):
            by_tap[tap] += number * factors[tap] if factors else 0.0
        self._loss = PerceptualLoss(
            trunk_for(feature_extractor, network_weights, self._taps, replace_pooling),
            mean=mean, std=std, reduction=reduction, gram_normalize="none", compute_dtype=compute_dtype,
            chunk_size=chunk_size, engine=engine, backend=backend,
            **_part_settings(self._part, by_tap, self._distance),
        )  # fmt: skip
        kept = [torch.as_tensor(weight).to("cpu", torch.float64) for _, weight in pairs]
        self._loss._keep_constants("weights", kept)  # they move with the network

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The distance of images x and y (N, 3, H, W): a scalar, or (N,) for reduction="none"."""
        loss, layers = self._loss, list(dict.fromkeys(self._taps))
        if isinstance(x, Tensor) and x.device != loss._device:
            self.to(x.device)
        x, y = loss._images("x", x, layers), loss._images("y", y, layers)
        check_pair({"x": x, "y": y})
        wants_y = torch.is_grad_enabled() and y.requires_grad
        if self._is_simple and not (wants_y and self._part == "style"):  # no gradient flows to a style
            return loss(x, **{"target" if self._part == "content" else "style": y if wants_y else y.detach()})
        maps = dict(zip(layers, loss._features(x, layers), strict=True))
        with torch.set_grad_enabled(wants_y):  # the same way as x, so that images that are the same are at 0
            targets = dict(zip(layers, loss._features(y, layers), strict=True))
        values = self._values([maps[tap] for tap in self._taps], [targets[tap] for tap in self._taps])
        return checks.reduce(values, self.reduction)

    def _values(self, maps: list[Tensor], targets: list[Tensor]) -> Tensor:  # L x (N, C, H, W) -> (N)
        backend = self._loss.backend
        if not self.normalize_features and self._numbers:
            numbers = [number * x.shape[1] for number, x in zip(self._numbers, maps, strict=True)]
            return ops.feature_loss(maps, targets, numbers, self._distance, "none", backend=backend)
        of_channels = self._channel_weights(maps)
        if self.normalize_features and self._distance == "mse" and of_channels:
            return lpips_terms(maps, targets, of_channels, EPS, False, backend)[0]
        return self._weighted(*self._normalized(maps, targets))

    def _channel_weights(self, maps: list[Tensor]) -> list[Tensor] | None:
        """One weight (C) for each channel of each map (N, C, H, W); None where there are more."""
        found = []
        for weight, x in zip(self._loss._kept["weights"], maps, strict=True):
            if weight.numel() not in (1, x.shape[1]) or tuple(weight.shape[-2:]) not in ((), (1, 1)):
                return None
            found.append(weight.to(checks.accumulator_dtype(x)).reshape(-1).expand(x.shape[1]))
        return found

    def _normalized(self, maps: list[Tensor], targets: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        if not self.normalize_features:
            return maps, targets
        x, y = ([reference.unit_features(x, EPS, False) for x in side] for side in (maps, targets))
        return x, y

    def _weighted(self, maps: list[Tensor], targets: list[Tensor]) -> Tensor:  # L x (N, C, H, W) -> (N)
        """The sum over layers and channels of weighted distances, in plain PyTorch: weights may have any shape."""
        values = []
        for x, y, weight in zip(maps, targets, self._loss._kept["weights"], strict=True):
            wide = checks.accumulator_dtype(x)
            distances = reference.distance_map(x.to(wide) - y.to(wide), self._distance, 0.0) * weight.to(wide)
            values.append(distances.mean((2, 3)).sum(1))
        return torch.stack(values).sum(0)


class StyleLoss(ContentLoss):
    """piq's `StyleLoss`: for each sample sum_l w_l mean over (C, C) of d(G_l(x), G_l(y)), with Grams F F^T undivided.

    Arguments, and what is repeated from piq, are those of `ContentLoss`.
    """

    _part = "style"

    def _values(self, maps: list[Tensor], targets: list[Tensor]) -> Tensor:  # L x (N, C, H, W) -> (N)
        sides = self._normalized(maps, targets)
        grams = [[ops.gram_matrix(x, "none", backend=self._loss.backend)[:, None] for x in side] for side in sides]
        return self._weighted(*grams)


def _part_settings(part: str, layers: Mapping[str, float], distance: str) -> dict[str, Any]:
    return {"content_layers": None, f"{part}_layers": layers, f"{part}_distance": distance}


def _checked_weights(weights: Sequence[float | Tensor]) -> list[float | Tensor]:
    """Each weight as a number where it is one, else as the tensor it is."""
    found: list[float | Tensor] = []
    for i, weight in enumerate(weights):
        if isinstance(weight, Tensor):
            checks.refuse_gradient(f"weights[{i}]", weight)
            found.append(weight.item() if weight.numel() == 1 else weight)
        else:
            found.append(checks.check_number(f"weights[{i}]", weight))
    return found

"""ContentLoss and StyleLoss."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss
from typing_extensions import Never, Unpack

from ... import _checks as checks
from ... import ops, reference
from ..._settings import Converted, Fixed, fixed, setting
from ...engine.batching import chunks
from ...engine.terms import Part
from ...losses import PerceptualLoss
from ...losses.base import FrozenLoss
from ...losses.options import EngineOptions, takes_engine_options
from ...metric_ops import lpips_terms
from ...names import Reduction
from ...networks import IMAGENET_MEAN, IMAGENET_STD
from ...networks.weights import WeightSource
from .._checkpoint import DropsPeerState
from .._images import check_pair
from .._lean_part import lean_content, lean_style
from .._missing import SaysWhatIsMissing
from .._options import HasEngineOptions
from .arguments import (
    DISTANCES,
    Distance,
    DistanceName,
    channel_weights,
    checked_distance,
    checked_weights,
    fused_name,
)
from .asserted import asserted
from .networks import Extractor, Order, check_channels, order_of, trunk_for

EPS = 1e-10  # beside the length of a pixel's channels

# What a subclass may override, or an object be given: then it is called as piq calls it.
METHODS = ("get_features", "compute_distance", "normalize", "gram_matrix")


class ContentLoss(SaysWhatIsMissing, DropsPeerState, HasEngineOptions, _Loss):
    """piq's `ContentLoss`: for each sample sum_l mean over (H, W) of the sum over channels of w_l d(x_l, y_l).

    The distance is summed over the channels, so it is C times that of `perceptual_ops.feature_loss`. Repeated from piq
    unless `as_named` is set: a layer whose successor works in place, so every conv layer, gives what its successor made
    of it (`normalize_features` comes before that); and weights go to the layers in the network's order, whatever the
    order they are named in.

    As in piq the network follows the images to their device; `weights`, `distance`, `reduction` and
    `normalize_features` are read at each call; and a subclass may override `get_features`, `compute_distance`,
    `normalize` or, for styles, `gram_matrix`, which then run in ordinary autograd. Refusals that are assertions in piq
    are AssertionErrors here, too. Differences from piq: a module is copied, frozen and in eval mode; nothing behind
    the deepest layer is run, so smaller images serve; unknown layers are refused.

    Args:
        feature_extractor: "vgg16", "vgg19", or a module, whose children are run one after the other.
        layers: Names such as "relu3_3"; of a module, names of its children.
        weights: For each layer a number, or a tensor that broadcasts with (N, C, H, W); no gradient flows to it.
        replace_pooling: Whether max-pooling is replaced by 2x2 average pooling.
        distance: "mse" or "mae"; of an object it may also be set to a function of two maps (N, C, H, W) that gives one.
        reduction: "mean" or "sum" over the batch, or "none".
        mean, std: Normalisation of images in [0, 1].
        normalize_features: Whether the channels of each pixel are divided by their length.
        allow_layers_weights_mismatch: Whether layers without a weight, and weights without a layer, are left out.
        as_named: Whether each layer gives what its name says, and has the weight at its place in `weights`.
        network_weights: Weights of a network by name, see `perceptual_ops.load_network`.
        options: Options of the engine, see `perceptual_ops.losses.EngineOptions`. Normalised features, weights that are
            tensors, distances of your own, your own module, and a style whose gradient is wanted take ordinary
            autograd, which tile_size is refused with.

    Raises:
        TypeError, ValueError, OSError: As `perceptual_ops.PerceptualLoss`.
    """

    peer_keys: ClassVar[re.Pattern[str]] = re.compile(r"model\..+")
    missing: ClassVar[dict[str, str]] = {
        "model": "get_features(x) gives the maps, and the network has nothing to train or to move on its own"
    }

    weights: Converted[tuple[float | Tensor, ...], Sequence[float | Tensor]] = setting("weights", checked_weights)
    distance: Converted[Distance, DistanceName | Distance] = setting("distance", checked_distance)
    reduction: Reduction = setting("reduction", partial(checks.check_choice, choices=checks.REDUCTIONS))
    normalize_features: bool = setting("normalize_features", checks.check_flag)
    feature_extractor: Fixed[Never] = fixed("feature_extractor")
    network_weights: Fixed[Never] = fixed("network_weights")
    layers: Fixed[tuple[str, ...]] = fixed("layers")
    mean: Fixed[tuple[float, ...]] = fixed("mean")
    std: Fixed[tuple[float, ...]] = fixed("std")
    as_named: Fixed[bool] = fixed("as_named")
    allow_layers_weights_mismatch: Fixed[bool] = fixed("allow_layers_weights_mismatch", "_allows_mismatch")

    _loss: FrozenLoss
    _is_style = False

    @takes_engine_options
    def __init__(
        self,
        feature_extractor: Extractor | nn.Module = "vgg16",
        layers: Collection[str] = ("relu3_3",),
        weights: Sequence[float | Tensor] = (1.0,),
        replace_pooling: bool = False,
        distance: DistanceName = "mse",
        reduction: Reduction = "mean",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        normalize_features: bool = False,
        allow_layers_weights_mismatch: bool = False,
        *,
        as_named: bool = False,
        network_weights: WeightSource = "imagenet",
        **options: Unpack[EngineOptions],
    ) -> None:
        super().__init__()
        if isinstance(layers, str):
            raise TypeError(f"layers: expected a list of layer names, got the string {layers!r}")
        self._hold(layers, weights, distance, reduction, mean, std, normalize_features, allow_layers_weights_mismatch)
        self._set_taps(order_of(feature_extractor), as_named)
        check_channels(feature_extractor, self._mean, self._std)
        if replace_pooling and isinstance(feature_extractor, str) and not _is_ours(self.replace_pooling):
            raise TypeError(
                f"replace_pooling: expected no method of {type(self).__name__}'s own for a network by name; pass the "
                "network as a module"
            )
        pooling = self.replace_pooling if replace_pooling else None
        self._loss = PerceptualLoss(
            trunk_for(feature_extractor, network_weights, self._all_taps, pooling),
            content_layers=self._all_taps, mean=mean, std=std, **options,
        )  # fmt: skip

    def _hold(
        self, layers: Collection[str], weights: Sequence[float | Tensor], distance: DistanceName, reduction: Reduction,
        mean: Sequence[float], std: Sequence[float], normalize_features: bool, allows_mismatch: bool = False,
    ) -> None:  # fmt: skip
        """Everything but the network."""
        checks.check_choice("distance", distance, tuple(DISTANCES))
        self._layers, self._mean, self._std = tuple(layers), tuple(mean), tuple(std)
        self._weights = checked_weights("weights", weights)
        # As its setting keeps it; a submodule of the name would hide later values from torch.compile.
        object.__setattr__(self, "_distance", checked_distance("distance", distance))
        self.reduction, self.normalize_features = reduction, normalize_features
        self._allows_mismatch = allows_mismatch
        self._check_count()

    def _set_taps(self, order: Order, as_named: bool = False) -> None:
        """The layers in the order of their weights, for features that are normalised and for others."""
        taps = {normalized: order.taps(self._layers, late=not normalized) for normalized in (False, True)}
        self._taps = {normalized: list(self._layers) if as_named else found for normalized, found in taps.items()}
        self._channels = order.channels

    def _check_count(self) -> None:
        if len(self._layers) != len(self._weights) and not self._allows_mismatch:
            with asserted():
                raise ValueError(f"weights: expected {len(self._layers)}, one for each layer; got {len(self._weights)}")

    @property
    def _all_taps(self) -> list[str]:
        return list(dict.fromkeys([*self._taps[False], *self._taps[True]]))

    def extra_repr(self) -> str:
        return f"layers={list(self.layers)}, weights={list(self._weights)}, reduction={self.reduction!r}"

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The distance of images x and y (N, 3, H, W): a scalar, or (N,) for reduction="none"."""
        x, y = self._checked(x, y)
        return checks.reduce(self._values(x, y), self.reduction)

    def get_features(self, x: Tensor) -> list[Tensor]:
        """The layers' maps, L x (N, C, H, W), of images x (N, 3, H, W)."""
        maps = self._maps(x, self._taps[self.normalize_features])
        return [self.normalize(features) for features in maps] if self.normalize_features else maps

    def compute_distance(self, x_features: list[Tensor], y_features: list[Tensor]) -> list[Tensor]:
        """The distance of each layer's maps (N, C, H, W), of the same shape and unweighted; in fp32 at least."""
        wide = [checks.accumulator_dtype(x) for x in x_features]
        triples = zip(x_features, y_features, wide, strict=True)
        return [self.distance(x.to(dtype), y.to(dtype).expand_as(x)) for x, y, dtype in triples]

    @staticmethod
    def normalize(x: Tensor) -> Tensor:
        """A map (N, C, H, W) whose channels are divided by their length at each pixel."""
        return reference.unit_features(x, EPS, False)

    def replace_pooling(self, module: nn.Module) -> nn.Module:
        """The module with 2x2 average pooling for its max-pooling, in place where that is within it."""
        for name, child in list(module.named_children()):
            module.add_module(name, self.replace_pooling(child))
        return nn.AvgPool2d(2) if isinstance(module, nn.MaxPool2d) else module

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        device = self._loss.device
        self._weights = tuple(weight.to(device) if isinstance(weight, Tensor) else weight for weight in self._weights)
        return self

    def _checked(self, x: object, y: object) -> tuple[Tensor, Tensor]:
        """Both images, checked; the network is where they are."""
        loss = self._loss
        if isinstance(x, Tensor) and x.device != loss.device:
            self.to(x.device)
        with asserted():
            pair = {name: loss.checked_images(name, images, self._all_taps) for name, images in (("x", x), ("y", y))}
            check_pair(pair)
        return pair["x"], pair["y"]

    def _pairs(self) -> list[tuple[str, float | Tensor]]:
        """The layers and their weights, at least one."""
        self._check_count()
        pairs = list(zip(self._taps[self.normalize_features], self._weights, strict=False))
        if not pairs:
            raise ValueError("weights: expected at least one that belongs to a layer, got none")
        return pairs

    def _is_overridden(self) -> bool:
        """Whether a subclass, or an attribute of this object, replaces one of piq's methods."""
        return not all(_is_ours(getattr(self, name)) for name in METHODS if hasattr(self, name))

    def _values(self, x: Tensor, y: Tensor) -> Tensor:  # (N, 3, H, W) -> (N)
        wants_y = torch.is_grad_enabled() and y.requires_grad
        y = y if wants_y else y.detach()
        pairs = self._pairs()
        part = None if wants_y and self._is_style else self._part(pairs)  # no gradient flows to a style
        if part is None:
            self._refuse_tiles()
        elif self._loss.runs_lean(x=x, y=y):
            assert isinstance(self._loss, PerceptualLoss)
            if self._is_style:
                return lean_style(self._loss, part, "none", x, y)
            return lean_content(self._loss, part, x, y)
        if self._is_overridden():
            return self._weighted(self.compute_distance(self.get_features(x), self.get_features(y)))
        found = []
        for rows in chunks(x.shape[0], self._loss.chunk_size):
            maps = self._maps(x[rows], [tap for tap, _ in pairs])
            with ops.grad_mode(wants_y):  # the same way as x, so that images that are the same are at 0
                targets = self._maps(y if y.shape[0] == 1 else y[rows], [tap for tap, _ in pairs])
            found.append(self._distance_of(maps, targets))
        return torch.cat(found)

    def _refuse_tiles(self) -> None:
        if self.tile_size is not None:
            raise ValueError(
                "tile_size: expected None for what takes ordinary autograd, such as normalised features, and tensors, "
                f"functions and modules of your own; got {self.tile_size!r}"
            )

    def _part(self, pairs: list[tuple[str, float | Tensor]]) -> Part | None:
        """What the lean engine is asked for; None: it has no such loss."""
        distance = fused_name(self.distance)
        if self.normalize_features or distance is None or self._channels is None or self._is_overridden():
            return None
        by_tap: dict[str, float] = {}
        for tap, weight in pairs:
            if isinstance(weight, Tensor):
                return None
            by_tap[tap] = by_tap.get(tap, 0.0) + weight * (1 if self._is_style else self._channels[tap])
        return Part(tuple(by_tap), tuple(by_tap.values()), distance, 0.0)

    def _maps(self, images: Tensor, taps: list[str]) -> list[Tensor]:
        layers = list(dict.fromkeys(taps))
        maps = dict(zip(layers, self._loss.features(images, layers), strict=True))
        return [maps[tap] for tap in taps]

    def _distance_of(self, maps: list[Tensor], targets: list[Tensor]) -> Tensor:  # L x (N, C, H, W) -> (N)
        backend, distance = self._loss.backend, fused_name(self.distance)
        numbers = [w * x.shape[1] for w, x in zip(self._weights, maps, strict=False) if not isinstance(w, Tensor)]
        if not self.normalize_features and distance and len(numbers) == len(maps):
            return ops.feature_loss(maps, targets, numbers, distance, "none", backend=backend)
        of_channels = channel_weights(self._weights, maps)
        if self.normalize_features and distance == "mse" and of_channels:
            return lpips_terms(maps, targets, of_channels, EPS, False, backend)[0]
        return self._by_layer(maps, targets)

    def _by_layer(self, maps: list[Tensor], targets: list[Tensor]) -> Tensor:  # L x (N, C, H, W) -> (N)
        sides = [maps, targets]
        if self.normalize_features:
            sides = [[self.normalize(x) for x in side] for side in sides]
        return self._weighted(self.compute_distance(*sides))

    def _weighted(self, distances: list[Tensor]) -> Tensor:  # L x (N, C, H, W) -> (N)
        """The sum over layers and channels, in plain PyTorch: weights may have any shape."""
        values = []
        for d, weight in zip(distances, self._weights, strict=False):
            values.append((d * (weight.to(d) if isinstance(weight, Tensor) else weight)).mean((2, 3)).sum(1))
        return torch.stack(values).sum(0)


class StyleLoss(ContentLoss):
    """piq's `StyleLoss`: for each sample sum_l w_l mean over (C, C) of d(G_l(x), G_l(y)), with Grams F F^T undivided.

    Arguments, and what is kept for parity with piq, are those of `ContentLoss`.
    """

    _is_style = True

    def compute_distance(self, x_features: list[Tensor], y_features: list[Tensor]) -> list[Tensor]:
        """The distance of each layer's Grams, (N, 1, C, C)."""
        grams = [[self.gram_matrix(x) for x in side] for side in (x_features, y_features)]
        return super().compute_distance(*grams)

    @staticmethod
    def gram_matrix(x: Tensor) -> Tensor:
        """The Gram (N, 1, C, C), undivided, of a map (N, C, H, W)."""
        return ops.gram_matrix(x, "none")[:, None]

    def _distance_of(self, maps: list[Tensor], targets: list[Tensor]) -> Tensor:
        return self._by_layer(maps, targets)


def _is_ours(method: Callable[..., Any]) -> bool:
    return getattr(method, "__module__", "").startswith(__package__)

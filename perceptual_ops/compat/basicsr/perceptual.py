"""PerceptualLoss."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from typing_extensions import Never, Unpack

from ... import _checks as checks
from ... import ops, reference
from ..._settings import Converted, Fixed, fixed, setting
from ...engine.terms import Part
from ...losses import PerceptualLoss as _PerceptualLoss
from ...losses.options import ENGINES, EngineOptions, takes_engine_options
from ...names import Distance, Engine, TileSize, VggName
from ...networks import ARCHITECTURES, FeatureNetwork, Layer
from ...networks.weights import WeightSource
from .._checkpoint import DropsPeerState
from .._images import check_pair
from .._lean_part import lean_content, lean_style
from .._missing import SaysWhatIsMissing
from .._options import HasEngineOptions

NETWORKS: tuple[VggName, ...] = get_args(VggName)
Criterion = Literal["l1", "l2", "fro"]
DISTANCES: dict[Criterion, Distance] = {
    "l1": "l1",
    "l2": "mse",
    "fro": "sse",
}  # the Frobenius norm is the root of a sum of squares
WEIGHTS_FILE = "experiments/pretrained_models/vgg19-dcbb9e9d.pth"


class PerceptualLoss(SaysWhatIsMissing, DropsPeerState, HasEngineOptions):
    """BasicSR's `PerceptualLoss`: (perceptual loss, style loss), each a scalar, or None if its weight is not above 0.

    "l1" and "l2" are means over the batch. "fro" is the norm of the whole batch's difference, so it grows with the
    batch; the gradient of a norm that is 0 is 0. Grams are divided by C H W. A conv layer is taken before its ReLU.

    As in BasicSR, `layer_weights`, `perceptual_weight`, `style_weight` and `criterion_type` are read at each call.
    Differences from BasicSR: every `vgg_type` gets its own weights, by default torchvision's, and no file is looked
    for under `experiments/pretrained_models` (BasicSR loads VGG19's from there whatever the type; name the path as
    `weights` to use it); batch-norm variants are refused; `layer_weights` must name a layer.

    Args:
        layer_weights: Layer name -> weight, for both losses. It may change later, to layers no deeper than the deepest.
        vgg_type: "vgg11", "vgg13", "vgg16" or "vgg19".
        use_input_norm: Whether images in [0, 1] are normalised by ImageNet's mean and standard deviation.
        range_norm: Whether images come in [-1, 1].
        perceptual_weight, style_weight: Factors of the two losses.
        criterion: "l1", "l2" or "fro".
        weights: Weights of the network, see `perceptual_ops.load_network`.
        options: Options of the engine, see `perceptual_ops.losses.EngineOptions`. chunk_size serves the lean engine.
            engine may be None, as without it: "lean" for one of the two losses. Both together, and "fro", take one pass
            of ordinary autograd, which tile_size is refused with, since their gradients are weighted by numbers that
            only the backward knows.

    Raises:
        TypeError, ValueError, OSError: As `perceptual_ops.PerceptualLoss`.
    """

    peer_keys: ClassVar[re.Pattern[str]] = re.compile(r"vgg\.(?:mean|std|vgg_net\..+)")
    missing: ClassVar[dict[str, str]] = {
        "vgg": "the network has nothing to train or to move on its own; for maps use perceptual_ops.load_network",
        "criterion": 'criterion_type names the distance, "l1", "l2" or "fro"',
    }

    perceptual_weight: float = setting("perceptual_weight", checks.check_number)
    style_weight: float = setting("style_weight", checks.check_number)
    layer_weights: Converted[dict[str, float], Mapping[str, float]] = setting(
        "layer_weights", lambda name, layers: _checked_layers(name, layers)
    )
    criterion_type: Criterion = setting("criterion_type", partial(checks.check_choice, choices=tuple(DISTANCES)))
    engine: Engine | None = setting(  # type: ignore[assignment]  # None: whichever takes both losses
        "engine",
        lambda name, engine: engine and checks.check_choice(name, engine, ENGINES),
        changed=lambda self: setattr(self._loss, "engine", self.engine or "lean"),
    )
    vgg_type: Fixed[VggName] = fixed("vgg_type")
    weights: Fixed[Never] = fixed("weights")
    use_input_norm: Fixed[bool] = fixed("use_input_norm")
    range_norm: Fixed[bool] = fixed("range_norm")

    @partial(takes_engine_options, engine=None)
    def __init__(
        self,
        layer_weights: Mapping[str, float],
        vgg_type: VggName = "vgg19",
        use_input_norm: bool = True,
        range_norm: bool = False,
        perceptual_weight: float = 1.0,
        style_weight: float = 0.0,
        criterion: Criterion = "l1",
        *,
        weights: WeightSource = "imagenet",
        **options: Unpack[EngineOptions],
    ) -> None:
        super().__init__()
        checks.check_choice("vgg_type", vgg_type, NETWORKS)
        checks.check_choice("criterion", criterion, tuple(DISTANCES))
        self.layer_weights = layer_weights
        _check_known(self.layer_weights, ARCHITECTURES[vgg_type])
        self.perceptual_weight = perceptual_weight
        self.style_weight = style_weight
        self.criterion_type = criterion
        self.engine = options.get("engine")
        self._check_whole(options.get("tile_size"))
        options["engine"] = self.engine or "lean"
        try:
            self._loss = _PerceptualLoss(
                vgg_type,
                weights=weights,
                content_layers=list(self.layer_weights),
                input_range=(-1.0, 1.0) if range_norm else (0.0, 1.0),
                mean=None if use_input_norm else (0.0, 0.0, 0.0),
                std=None if use_input_norm else (1.0, 1.0, 1.0),
                **options,
            )
        except OSError as error:
            raise type(error)(f"{error}; BasicSR's own file for VGG19 is named by weights={WEIGHTS_FILE!r}") from error

    def extra_repr(self) -> str:
        return (
            f"layer_weights={self.layer_weights}, perceptual_weight={self.perceptual_weight}, "
            f"style_weight={self.style_weight}, criterion={self.criterion_type!r}"
        )

    def forward(self, x: Tensor, gt: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The perceptual and the style loss of a batch of images.

        Args:
            x: Images (N, 3, H, W), or one (3, H, W), also with one channel for grey; the gradient flows to them.
            gt: Their targets, of the same shape; no gradient flows to them.
        """
        self._check_whole(self.tile_size)
        if self.perceptual_weight <= 0 and self.style_weight <= 0:
            return None, None
        layers = self._layers()
        pair = {name: self._loss.checked_images(name, _batch(images), layers)
                for name, images in (("x", x), ("gt", gt))}  # fmt: skip
        # Grams are as large as there are channels.
        check_pair(pair, same_size=self.perceptual_weight > 0)
        x, gt = pair["x"], pair["gt"].detach()
        if self._is_whole or not self._loss.runs_lean(x=x):
            return self._by_autograd(x, gt)
        part = Part(tuple(layers), tuple(layers.values()), DISTANCES[self.criterion_type], 0.0)
        if self.perceptual_weight > 0:
            return self.perceptual_weight * checks.reduce(lean_content(self._loss, part, x, gt), "mean"), None
        return None, self.style_weight * checks.reduce(lean_style(self._loss, part, "chw", x, gt), "mean")

    def _layers(self) -> dict[str, float]:
        """Layer -> weight, checked at each call: the dict is the user's to edit."""
        layers, trunk = _checked_layers("layer_weights", self.layer_weights), self._loss.frozen_network
        assert isinstance(trunk, FeatureNetwork)
        _check_known(layers, trunk.layers, "; a deeper one is to be named when the loss is made")
        return layers

    @property
    def _is_whole(self) -> bool:
        """Whether a loss is more than a mean of its samples', or there are two."""
        return self.criterion_type == "fro" or (self.perceptual_weight > 0 and self.style_weight > 0)

    def _check_whole(self, tile_size: TileSize | None) -> None:
        """Raises where the lean engine, or tiles, are asked for what neither can give."""
        reason = 'for two losses at once or criterion="fro", whose gradients are weighted in the backward'
        if self._is_whole and self.engine == "lean":
            raise ValueError(f'engine: expected None or "autograd" {reason}; got "lean"')
        if self._is_whole and tile_size is not None:
            raise ValueError(f"tile_size: expected None {reason}; got {tile_size!r}")

    def _by_autograd(self, x: Tensor, gt: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Every loss asked for, of one pass of the network over x and one over gt."""
        loss, layers = self._loss, list(self.layer_weights)
        maps = loss.features(x, layers)
        with ops.grad_mode(False):  # the same way as x, so that an x like gt is at 0, where a norm is steep
            targets = loss.features(gt, layers)
        perceptual = style = None
        if self.perceptual_weight > 0:
            perceptual = self.perceptual_weight * self._total(maps, targets)
        if self.style_weight > 0:
            sides = [[ops.gram_matrix(x, backend=loss.backend)[:, None] for x in side] for side in (maps, targets)]
            style = self.style_weight * self._total(*sides)
        return perceptual, style

    def _total(self, maps: list[Tensor], targets: list[Tensor]) -> Tensor:  # L x (N, C, H, W), or Grams (N, 1, C, C)
        """The weighted sum over the layers."""
        weights = list(_checked_layers("layer_weights", self.layer_weights).values())
        distance, backend = DISTANCES[self.criterion_type], self._loss.backend
        if distance != "sse":
            return ops.feature_loss(maps, targets, weights, distance, backend=backend)
        squares = [
            ops.feature_loss([x], [y], distance=distance, reduction="sum", backend=backend)
            for x, y in zip(maps, targets, strict=True)
        ]
        return torch.stack(
            [weight * reference.root(square) for weight, square in zip(weights, squares, strict=True)]
        ).sum()


def _checked_layers(name: str, layers: Mapping[str, float]) -> dict[str, float]:
    if not isinstance(layers, Mapping) or not layers:
        raise TypeError(
            f"{name}: expected a dict of layer names and weights, such as {{'conv5_4': 1.0}}; got {layers!r}"
        )
    return {layer: checks.check_number(f"{name}[{layer!r}]", weight) for layer, weight in layers.items()}


def _check_known(layers: Mapping[str, float], known: Sequence[Layer], remedy: str = "") -> None:
    names = [layer.name for layer in known]
    for layer in layers:
        if layer not in names:
            raise ValueError(f"layer_weights: expected some of {', '.join(names)}; got {layer!r}{remedy}")


def _batch(images: Tensor) -> Tensor:
    """One image (C, H, W) as a batch of it."""
    return images[None] if isinstance(images, Tensor) and images.dim() == 3 else images

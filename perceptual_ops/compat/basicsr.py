"""BasicSR's PerceptualLoss and WeightedTVLoss (basicsr/losses/basic_loss.py, basicsr/archs/vgg_arch.py)."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import _checks as checks
from .. import ops, reference
from .._settings import ModuleWithSettings, fixed, passed_on, setting
from ..losses import PerceptualLoss as _PerceptualLoss
from ..losses.frozen import ENGINES
from ..losses.terms import Part
from ..networks import ARCHITECTURES, FeatureNetwork, Layer
from ..networks.weights import WeightSource
from ._checkpoint import DropsPeerState
from ._images import check_pair
from ._lean_part import lean_content, lean_style
from ._missing import SaysWhatIsMissing, missing_names

NETWORKS = ("vgg11", "vgg13", "vgg16", "vgg19")
DISTANCES = {"l1": "l1", "l2": "mse", "fro": "sse"}  # the Frobenius norm is the root of a sum of squares
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in checks.DTYPES[:3]}
WEIGHTS_FILE = "experiments/pretrained_models/vgg19-dcbb9e9d.pth"

_PIXEL_LOSS = "it holds no network, so import BasicSR's own from basicsr.losses.basic_loss"
__getattr__ = missing_names(
    __name__,
    {
        "L1Loss": _PIXEL_LOSS,
        "MSELoss": _PIXEL_LOSS,
        "CharbonnierLoss": _PIXEL_LOSS,
        "VGGFeatureExtractor": "use perceptual_ops.load_network(vgg_type, weights, layers=layer_name_list); images in "
        "[0, 1] give a dict of maps by layer name",
    },
)


def register(registry: Any = None, suffix: str = "perceptual_ops") -> None:
    """Makes these losses known to BasicSR's `build_loss`, so that one word of an options file switches to them.

    After `register()`, somewhere before the model is built, `type: PerceptualLoss` of the options becomes
    `type: PerceptualLoss_perceptual_ops`, likewise `WeightedTVLoss`. A second call changes nothing.

    Args:
        registry: A registry of BasicSR's. None: `basicsr.utils.registry.LOSS_REGISTRY`.
        suffix: What follows the name and an underscore.

    Raises:
        ModuleNotFoundError: No registry was given, and BasicSR, or a module that it imports, is not installed.
    """
    if registry is None:
        try:
            registry = importlib.import_module("basicsr.utils.registry").LOSS_REGISTRY
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"registry: expected BasicSR's, whose import says {error}; pip install basicsr, or pass registry=",
                name=error.name,
            ) from error
    for loss in (PerceptualLoss, WeightedTVLoss):
        if f"{loss.__name__}_{suffix}" not in registry:
            registry.register(loss, suffix=suffix)


class PerceptualLoss(SaysWhatIsMissing, DropsPeerState, ModuleWithSettings):
    """BasicSR's `PerceptualLoss`: (perceptual loss, style loss), each a scalar, or None if its weight is not above 0.

    "l1" and "l2" are means over the batch. "fro" is the norm of the whole batch's difference, so it grows with the
    batch; the gradient of a norm that is 0 is 0. Grams are divided by C H W. A conv layer is taken before its ReLU.

    As in BasicSR, `layer_weights`, `perceptual_weight`, `style_weight` and `criterion_type` are read at each call.
    Otherwise than in BasicSR: every `vgg_type` gets its own weights, by default torchvision's, and no file is looked
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
        compute_dtype, chunk_size, backend: As of `perceptual_ops.PerceptualLoss`; chunk_size serves the lean engine.
            compute_dtype may be a word, as options files have it: "bfloat16".
        engine: "lean", "autograd", or None: "lean" for one of the two losses. Both together, and "fro", take one pass
            of ordinary autograd, since their gradients are weighted by numbers that only the backward knows.

    Raises:
        TypeError, ValueError, OSError: As `perceptual_ops.PerceptualLoss`.
    """

    peer_keys = re.compile(r"vgg\.(?:mean|std|vgg_net\..+)")
    missing: ClassVar[dict[str, str]] = {
        "vgg": "the network has nothing to train or to move on its own; for maps use perceptual_ops.load_network",
        "criterion": 'criterion_type names the distance, "l1", "l2" or "fro"',
    }

    perceptual_weight = setting("perceptual_weight", checks.check_number)
    style_weight = setting("style_weight", checks.check_number)
    layer_weights = setting("layer_weights", lambda name, layers: _checked_layers(name, layers))
    criterion_type = setting("criterion_type", partial(checks.check_choice, choices=tuple(DISTANCES)))
    engine = setting(
        "engine",
        lambda name, engine: engine and checks.check_choice(name, engine, ENGINES),
        changed=lambda loss: setattr(loss._loss, "engine", loss.engine or "lean"),
    )
    compute_dtype = passed_on("compute_dtype", check=lambda name, dtype: _dtype(name, dtype))
    chunk_size, backend = passed_on("chunk_size"), passed_on("backend")
    vgg_type, weights = fixed("vgg_type"), fixed("weights")
    use_input_norm, range_norm = fixed("use_input_norm"), fixed("range_norm")

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
        compute_dtype: torch.dtype | str | None = None,
        chunk_size: int | None = None,
        engine: str | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        checks.check_choice("vgg_type", vgg_type, NETWORKS)
        checks.check_choice("criterion", criterion, tuple(DISTANCES))
        self.layer_weights = layer_weights
        _check_known(self.layer_weights, ARCHITECTURES[vgg_type])
        self.perceptual_weight = perceptual_weight
        self.style_weight = style_weight
        self.criterion_type = criterion
        self.engine = engine
        self._check_engine()
        try:
            self._loss = _PerceptualLoss(
                vgg_type,
                weights=weights,
                content_layers=list(self.layer_weights),
                input_range=(-1.0, 1.0) if range_norm else (0.0, 1.0),
                mean=None if use_input_norm else (0.0, 0.0, 0.0),
                std=None if use_input_norm else (1.0, 1.0, 1.0),
                compute_dtype=_dtype("compute_dtype", compute_dtype),
                chunk_size=chunk_size,
                engine=engine or "lean",
                backend=backend,
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
        self._check_engine()
        if self.perceptual_weight <= 0 and self.style_weight <= 0:
            return None, None
        layers = self._layers()
        pair = {name: self._loss._images(name, _batch(images), layers)
                for name, images in (("x", x), ("gt", gt))}  # fmt: skip
        # Grams are as large as there are channels.
        check_pair(pair, same_size=self.perceptual_weight > 0)
        x, gt = pair["x"], pair["gt"].detach()
        if self._is_whole or not self._loss._is_lean(x=x):
            return self._by_autograd(x, gt)
        part = Part(tuple(layers), tuple(layers.values()), DISTANCES[self.criterion_type], 0.0)
        if self.perceptual_weight > 0:
            return self.perceptual_weight * checks.reduce(lean_content(self._loss, part, x, gt), "mean"), None
        return None, self.style_weight * checks.reduce(lean_style(self._loss, part, "chw", x, gt), "mean")

    def _layers(self) -> dict[str, float]:
        """Layer -> weight, checked at each call: the dict is the user's to edit."""
        layers, trunk = _checked_layers("layer_weights", self.layer_weights), self._loss._network
        assert isinstance(trunk, FeatureNetwork)
        _check_known(layers, trunk.layers, "; a deeper one is to be named when the loss is made")
        return layers

    @property
    def _is_whole(self) -> bool:
        """Whether a loss is more than a mean of its samples', or there are two."""
        return self.criterion_type == "fro" or (self.perceptual_weight > 0 and self.style_weight > 0)

    def _check_engine(self) -> None:
        if self.engine == "lean" and self._is_whole:
            raise ValueError(
                'engine: expected None or "autograd" for two losses at once or criterion="fro", whose gradients are '
                'weighted in the backward; got "lean"'
            )

    def _by_autograd(self, x: Tensor, gt: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Every loss asked for, of one pass of the network over x and one over gt."""
        loss, layers = self._loss, list(self.layer_weights)
        maps = loss._features(x, layers)
        with ops.grad_mode(False):  # the same way as x, so that an x like gt is at 0, where a norm is steep
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


class WeightedTVLoss(ModuleWithSettings):
    """BasicSR's `WeightedTVLoss`: L1 between neighbours, down plus across, each with a mean or sum of its own.

    As in BasicSR, a mean with weights is divided by their sum, and is NaN where that is 0.

    Args:
        loss_weight: Factor of the loss.
        reduction: "mean" or "sum".

    Raises:
        TypeError, ValueError: An argument is not as described.
    """

    loss_weight = setting("loss_weight", checks.check_number)
    reduction = setting("reduction", partial(checks.check_choice, choices=("mean", "sum")))

    def __init__(self, loss_weight: float = 1.0, reduction: str = "mean") -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.reduction = reduction

    def forward(self, pred: Tensor, weight: Tensor | None = None) -> Tensor:
        """The total variation of images, a scalar.

        Args:
            pred: Images (N, C, H, W), any range.
            weight: Of each pixel towards the one below it and to its right, (N, C, H, W) or (N, 1, H, W). One for the
                whole batch, of which BasicSR's mean is N times too large, is refused.
        """
        checks.check_map("pred", pred)
        if weight is not None:
            _check_weight(pred, weight)
        variation = torch.zeros((), dtype=checks.accumulator_dtype(pred), device=pred.device)
        for axis in (2, 3):
            length = pred.shape[axis] - 1
            steps = pred.narrow(axis, 1, length) - pred.narrow(axis, 0, length)
            variation = variation + self._reduced(steps, None if weight is None else weight.narrow(axis, 0, length))
        return self.loss_weight * variation

    def _reduced(self, steps: Tensor, weight: Tensor | None) -> Tensor:  # (N, C, H, W) -> ()
        distances = steps.abs() if weight is None else steps.abs() * weight
        total = distances.sum(dtype=checks.accumulator_dtype(steps))
        if self.reduction == "sum":
            return total
        if weight is None:
            return total / steps.numel()
        return total / (weight.sum(dtype=total.dtype) * (steps.shape[1] // weight.shape[1]))


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


def _dtype(name: str, dtype: torch.dtype | str | None) -> torch.dtype | None:
    return DTYPES[checks.check_choice(name, dtype, tuple(DTYPES))] if isinstance(dtype, str) else dtype


def _check_weight(pred: Tensor, weight: object) -> None:
    """Of every image its own: BasicSR's mean by one for the whole batch would be N times too large."""
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight: expected a tensor, got {type(weight).__name__}")
    if weight.device != pred.device:
        raise ValueError(f"weight: expected a tensor on {pred.device}, where pred is; got {weight.device}")
    is_map = weight.dim() == 4
    # Axis by axis: symbolic sizes under torch.compile stay symbolic.
    of_each = is_map and (weight.shape[1] == 1 or weight.shape[1] == pred.shape[1])
    if of_each and all(weight.shape[axis] == pred.shape[axis] for axis in (0, 2, 3)):
        return
    remedy = "; weight.expand(N, -1, -1, -1) weighs each image alike" if is_map and weight.shape[0] == 1 else ""
    raise ValueError(
        f"weight: expected (N, 1, H, W) or the shape of pred, {tuple(pred.shape)}; got {tuple(weight.shape)}{remedy}"
    )


def _batch(images: Tensor) -> Tensor:
    """One image (C, H, W) as a batch of it."""
    return images[None] if isinstance(images, Tensor) and images.dim() == 3 else images

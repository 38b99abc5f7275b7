"""The package DISTS-pytorch (DISTS_pytorch/DISTS_pt.py, 0.1)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Never, Unpack

from .. import _checks as checks
from .._settings import Fixed, fixed
from ..losses import DISTS as _DISTS
from ..losses.options import EngineOptions, takes_engine_options
from ..networks import DISTS_CHANNELS, IMAGENET_MEAN, IMAGENET_STD
from ..networks.metric_weights import DistsSource, dists_weights
from ..networks.weights import WeightSource
from ._checkpoint import DropsPeerState
from ._images import check_images
from ._missing import SaysWhatIsMissing
from ._options import HasEngineOptions
from ._peer_weights import dtype_of, has_no_numbers, refuse_others, same, take_numbers, take_trunk, tell, trunk_weights

if TYPE_CHECKING:
    from PIL import Image

BILINEAR = 2  # PIL.Image.Resampling's
_STAGE = "the network is run by forward_once(x), which gives its maps"


def _learned(name: str) -> Any:
    """alpha or beta as an attribute."""
    return property(lambda self: self._copy(name), lambda self, value: self._set(name, value))


class DISTS(SaysWhatIsMissing, DropsPeerState, HasEngineOptions):
    """DISTS-pytorch's `DISTS`: (N,), or a scalar for a batch of 1, from images in [0, 1].

    Kept for parity: no gradient flows to the images unless a call says `require_grad=True`. Differences: alpha and beta
    are not trainable, so the backward of a loss without gradient raises instead of doing nothing.

    Its state dict is empty. One of DISTS-pytorch loads all the same, alone or within a checkpoint of a model that held
    its DISTS: alpha, beta and the network in it become the loss's, with a warning where a model's are others than those
    it was made with (alpha and beta are trained there unless they are frozen), since they are not saved again. For
    an optimizer's state see `perceptual_ops.compat`.

    Attributes:
        alpha: The learned numbers (1, 1475, 1, 1), not normalised, and so is `beta`: copies, so set one instead of
            writing into it; it holds from the next call on.
        chns: As in DISTS-pytorch, fixed; so are `mean` and `std`.

    Args:
        load_weights: Whether alpha and beta are the learned ones; else they are drawn from a normal distribution around
            0.1, with the global random numbers.
        weights: Weights of VGG16, see `perceptual_ops.load_network`.
        alpha_beta: The learned numbers, in place of the official ones; see `perceptual_ops.DISTS`.
        options: Options of the engine, see `perceptual_ops.losses.EngineOptions`. They may be set later, too.

    Raises:
        TypeError, ValueError, OSError: As `perceptual_ops.DISTS`.
    """

    peer_keys: ClassVar[re.Pattern[str]] = re.compile(r"alpha|beta|mean|std|stage\d+\.\d+\.(weight|bias|filter)")
    missing: ClassVar[Mapping[str, str]] = {f"stage{number}": _STAGE for number in range(1, 6)}

    alpha: Tensor = _learned("alpha")
    beta: Tensor = _learned("beta")
    mean: Fixed[Tensor] = fixed("mean", read=lambda self: self._per_channel(IMAGENET_MEAN))
    std: Fixed[Tensor] = fixed("std", read=lambda self: self._per_channel(IMAGENET_STD))
    load_weights: Fixed[bool] = fixed("load_weights")
    weights: Fixed[Never] = fixed("weights")
    alpha_beta: Fixed[Never] = fixed("alpha_beta")
    chns: Fixed[list[int]] = fixed("chns", read=lambda dists: list(DISTS_CHANNELS))

    @takes_engine_options
    def __init__(
        self,
        load_weights: bool = True,
        *,
        weights: WeightSource = "imagenet",
        alpha_beta: DistsSource = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        super().__init__()
        if alpha_beta is None and not load_weights:
            alpha_beta = {name: torch.empty(sum(DISTS_CHANNELS)).normal_(0.1, 0.01) for name in ("alpha", "beta")}
        alpha, beta = (torch.cat(numbers) for numbers in dists_weights(alpha_beta))
        self._loss = _DISTS(weights=weights, alpha_beta={"alpha": alpha, "beta": beta}, **options)
        self._learned = {"alpha": alpha, "beta": beta}  # (1475,) each, on the CPU
        self._load_weights = load_weights

    def forward(self, x: Tensor, y: Tensor, require_grad: bool = False, batch_average: bool = False) -> Tensor:
        """The distance of image pairs.

        Args:
            x, y: Images (N, 3, H, W), or (N, 1, H, W) for grey; either may be a batch of 1.
            require_grad: Whether gradients flow to the images that require them.
            batch_average: Whether to return the mean over the batch; that of a batch of 0 is 0.
        """
        check_images(self._loss, x=x, y=y)
        if not require_grad:
            x, y = x.detach(), y.detach()
        distance = self._loss(x, y)
        return checks.reduce(distance, "mean") if batch_average else distance.squeeze()

    def forward_once(self, x: Tensor) -> list[Tensor]:
        """x (N, 3, H, W) itself and the five maps of it that are compared, (N, C, H', W') each, by autograd."""
        layers = self._loss.network_layers
        return [x, *self._loss.features(self._loss.checked_images("x", x, layers), layers)]

    def _copy(self, name: str) -> Tensor:
        return self._learned[name].to(self._loss.device, copy=True).view(1, -1, 1, 1)

    def _set(self, name: str, value: Tensor) -> None:
        if not isinstance(value, Tensor):
            shape = f"(1, {sum(DISTS_CHANNELS)}, 1, 1)"
            raise TypeError(f"{name}: expected a tensor {shape}, got {type(value).__name__}")
        checks.refuse_gradient(name, value)
        self._take_learned({name: value}, f"what was set as {name}")

    def _take_learned(self, numbers: Mapping[str, Tensor], origin: str) -> bool:
        """Makes alpha, beta or both those of the loss, divided by the sum of all; whether that changes them."""
        alpha, beta = (torch.cat(by_layer) for by_layer in dists_weights({**self._learned, **numbers}, origin))
        both = torch.cat([alpha, beta]).double()
        total = both.sum().item()
        if not 0 < total < math.inf:
            raise ValueError(f"{origin}: expected alpha and beta of a sum above 0 to divide by, got {total}")
        learned = {"alpha": alpha, "beta": beta}
        if all(same(self._learned[name], learned[name].to(value.dtype)) for name, value in numbers.items()):
            return False
        take_numbers(self._loss, (both / total).split(DISTS_CHANNELS * 2), torch.float64)
        self._learned = learned
        return True

    def _per_channel(self, numbers: tuple[float, ...]) -> Tensor:  # (1, 3, 1, 1)
        return torch.tensor(numbers, dtype=torch.float32, device=self._loss.device).view(1, -1, 1, 1)

    def _take_peer_state(self, state: Mapping[str, Tensor], place: str) -> None:
        origin, taken, saved = place or "the state dict", {}, dtype_of(state)
        if has_no_numbers(self._loss, state, origin):
            return
        refuse_others(state, {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}, origin)
        trunk = trunk_weights(self._loss, state, origin) if any(key.startswith("stage") for key in state) else {}
        if learned := {name: state[name] for name in ("alpha", "beta") if name in state}:
            taken["alpha and beta"] = self._take_learned(learned, origin)
        if trunk:
            taken["network"] = take_trunk(self._loss, trunk, saved)
        tell(place, taken, "alpha_beta= and weights=, which take a state dict of DISTS-pytorch")


def prepare_image(image: Image.Image, resize: bool = False) -> Tensor:
    """A picture of Pillow as a batch of 1.

    Args:
        image: Of 8 bits a channel, such as mode "RGB"; "L" has one channel, "RGBA" four.
        resize: Whether one whose shorter side is above 256 is made smaller, so that it is 256.

    Returns:
        (1, C, H, W) fp32 in [0, 1].

    Raises:
        ValueError: A picture of another mode (DISTS-pytorch takes a palette's indices for grey, and 16 bits as they
            are).
    """
    import numpy as np

    if image.mode in ("P", "PA", "F") or image.mode.startswith("I"):
        raise ValueError(
            f"image: expected 8 bits a channel, as in mode 'RGB', got mode {image.mode!r}; pass image.convert('RGB')"
        )
    short = min(image.size)
    if resize and short > 256:
        width, height = (int(256 * side / short) for side in image.size)
        image = image.resize((width, height), resample=BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    pixels = pixels[:, :, None] if pixels.dim() == 2 else pixels
    return pixels.permute(2, 0, 1)[None].contiguous().float() / (1 if image.mode == "1" else 255)

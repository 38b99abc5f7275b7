"""The package lpips (lpips/lpips.py and the helpers of lpips/__init__.py that scripts use, 0.1.4).

Left out are its baselines L2 and DSSIM, its trainer, and the conversions to Lab, which serve only those.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _checks as checks
from .. import images, reference
from ..losses import LPIPS as _LPIPS
from ..losses.lpips import TRUNKS
from ..networks.checkpoint_files import OTHER_FILE, checked_path, read_checkpoint
from ..networks.metric_weights import LinearSource
from ..networks.weights import WeightSource
from ._images import check_images

if TYPE_CHECKING:
    import numpy as np

NETWORKS = {"alex": "alex", "vgg": "vgg16", "vgg16": "vgg16", "squeeze": "squeeze"}


class LPIPS(nn.Module):
    """lpips's `LPIPS`: (N, 1, 1, 1), or maps (N, 1, H, W) for spatial, from images in [-1, 1].

    Otherwise than in lpips: nothing is trainable (there the linear weights are, unless one freezes them) and dropout
    never runs, so `eval_mode` and `verbose` change nothing; the gradient at features that are all zero is 0, not NaN;
    `use_dropout=False` loads the linear weights like any other call (there they silently stay random).

    Args:
        pretrained: Whether the linear weights are the learned ones; else they are drawn as `torch.nn.Conv2d` draws its
            own, from the global random numbers.
        net: "alex", "vgg", "vgg16" (the same) or "squeeze".
        version: Of the learned linear weights: "0.1", or "0.0", whose network takes images as they are.
        lpips: Whether there are linear weights at all; else every channel weighs 1.
        spatial: Whether the result is a map.
        pnet_rand: Whether the network has random weights.
        pnet_tune: Refused if set: the network is frozen.
        use_dropout, eval_mode, verbose: Change nothing.
        model_path: A checkpoint of lpips with linear weights; those of the network are taken from it too, if it has
            them.
        weights: Of the network, see `perceptual_ops.LPIPS`.
        linear: The linear weights, in place of what the arguments above say; see `perceptual_ops.LPIPS`.
        compute_dtype, chunk_size, engine, backend: As of `perceptual_ops.LPIPS`.

    Raises:
        TypeError, ValueError, OSError: As `perceptual_ops.LPIPS`; ValueError for pnet_tune.
    """

    def __init__(
        self,
        pretrained: bool = True,
        net: str = "alex",
        version: str = "0.1",
        lpips: bool = True,
        spatial: bool = False,
        pnet_rand: bool = False,
        pnet_tune: bool = False,
        use_dropout: bool = True,
        model_path: str | os.PathLike[str] | None = None,
        eval_mode: bool = True,
        verbose: bool = True,
        *,
        weights: WeightSource = "imagenet",
        linear: LinearSource | None = None,
        compute_dtype: torch.dtype | None = None,
        chunk_size: int | None = None,
        engine: str = "lean",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        checks.check_choice("net", net, tuple(NETWORKS))
        if pnet_tune:
            raise ValueError("pnet_tune: expected False, since the network is frozen; train it with the package lpips")
        network = NETWORKS[net]
        weights = "random" if pnet_rand else weights
        if linear is None and lpips and pretrained and model_path is not None:
            linear = _checkpoint(model_path)
            weights = linear if any(str(key).startswith("net.") for key in linear) else weights
        elif linear is None and lpips and not pretrained:
            linear = _random_linear(network)
        elif linear is None:
            linear = lpips  # the learned ones, or none
        self.spatial = spatial
        self._loss = _LPIPS(
            network, weights=weights, version=version, linear=linear, spatial=spatial, compute_dtype=compute_dtype,
            chunk_size=chunk_size, engine=engine, backend=backend,
        )  # fmt: skip

    def forward(
        self, in0: Tensor, in1: Tensor, retPerLayer: bool = False, normalize: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """The distance of image pairs.

        Args:
            in0, in1: Images (N, 3, H, W); either may be a batch of 1. Gradients flow to those that require them.
            retPerLayer: Whether to return the layers' shares too, as a list of the same shape.
            normalize: Whether the images are in [0, 1] instead of [-1, 1].
        """
        check_images(self._loss, in0=in0, in1=in1)
        if normalize:
            in0, in1 = 2 * in0 - 1, 2 * in1 - 1
        if not retPerLayer:
            return self._shaped(self._loss(in0, in1))
        value, layers = self._loss(in0, in1, return_layers=True)
        return self._shaped(value), [self._shaped(layer) for layer in layers]

    def _shaped(self, value: Tensor) -> Tensor:  # (N) or (N, 1, H, W)
        return value if self.spatial else value.view(-1, 1, 1, 1)


def _checkpoint(path: str | os.PathLike[str]) -> Mapping[str, Tensor]:
    state = read_checkpoint(checked_path("model_path", path, "None"), OTHER_FILE)
    if not isinstance(state, Mapping):
        raise ValueError(f"model_path: expected a state dict in {os.fspath(path)}, got {type(state).__name__}")
    return state


def _random_linear(network: str) -> list[Tensor]:
    return [nn.Conv2d(count, 1, 1, bias=False).weight.detach() for count in TRUNKS[network][1].values()]


# ---- helpers ----


def normalize_tensor(in_feat: Tensor, eps: float = 1e-10) -> Tensor:
    """Each pixel's channels of in_feat (N, C, H, W) divided by their length + eps; no gradient where all are 0."""
    return reference.unit_features(in_feat, eps, False)


def spatial_average(in_tens: Tensor, keepdim: bool = True) -> Tensor:
    """The mean of in_tens (N, C, H, W) over its pixels: (N, C, 1, 1), or (N, C) without keepdim."""
    return in_tens.mean((2, 3), keepdim=keepdim)


def upsample(in_tens: Tensor, out_HW: tuple[int, int] = (64, 64)) -> Tensor:
    """in_tens (N, C, H, W) resized bilinearly to out_HW."""
    return F.interpolate(in_tens, size=out_HW, mode="bilinear", align_corners=False)


def load_image(path: str | os.PathLike[str]) -> np.ndarray:
    """The picture in a file, (H, W, 3) of uint8, as `perceptual_ops.images.read_image` reads it.

    Otherwise than in lpips: transparency is composited on white, and raw files ("dng") are refused.
    """
    import numpy as np

    return np.array(images.to_picture(images.read_image(path)))


def im2tensor(image: np.ndarray, imtype: Any = "uint8", cent: float = 1.0, factor: float = 255.0 / 2.0) -> Tensor:
    """image (H, W, C), in [0, 255] by default, as (1, C, H, W) fp32: image / factor - cent. imtype changes nothing."""
    return torch.as_tensor(image / factor - cent, dtype=torch.float32).permute(2, 0, 1)[None].contiguous()


def tensor2im(
    image_tensor: Tensor, imtype: Any = "uint8", cent: float = 1.0, factor: float = 255.0 / 2.0
) -> np.ndarray:
    """The first of image_tensor (N, C, H, W), in [-1, 1] by default, as (H, W, C) of imtype, a dtype of numpy.

    Its value is (image + cent) * factor, cut to an integer, not rounded; clamp images that may lie outside first.
    """
    pixels = image_tensor[0].detach().cpu().float().permute(1, 2, 0).numpy()
    return ((pixels + cent) * factor).astype(imtype)

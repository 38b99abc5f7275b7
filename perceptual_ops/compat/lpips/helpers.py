"""lpips' helpers for maps, pictures and arrays (lpips/__init__.py and lpips/lpips.py, 0.1.4)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import images, reference

if TYPE_CHECKING:
    import numpy as np


# ---- maps ----


def normalize_tensor(in_feat: Tensor, eps: float = 1e-10) -> Tensor:
    """Each pixel's channels of in_feat (N, C, H, W) divided by their length + eps; no gradient where all are 0."""
    return reference.unit_features(in_feat, eps, False)


def spatial_average(in_tens: Tensor, keepdim: bool = True) -> Tensor:
    """The mean of in_tens (N, C, H, W) over its pixels: (N, C, 1, 1), or (N, C) without keepdim."""
    return in_tens.mean((2, 3), keepdim=keepdim)


def upsample(in_tens: Tensor, out_HW: tuple[int, int] = (64, 64)) -> Tensor:
    """in_tens (N, C, H, W) resized bilinearly to out_HW."""
    return F.interpolate(in_tens, size=out_HW, mode="bilinear", align_corners=False)


# ---- pictures ----


def load_image(path: str | os.PathLike[str]) -> np.ndarray:
    """The picture in a file, (H, W, 3) of uint8, as `perceptual_ops.images.read_image` reads it.

    Differences from lpips: transparency is composited on white, and raw files ("dng") are refused.
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


# ---- arrays ----


def tensor2np(tensor_obj: Tensor) -> np.ndarray:
    """The first of tensor_obj (N, C, H, W) as an array (H, W, C) of fp32."""
    return tensor_obj[0].detach().cpu().float().permute(1, 2, 0).numpy()


def np2tensor(np_obj: np.ndarray) -> Tensor:
    """np_obj (H, W, C) as (1, C, H, W) fp32."""
    return torch.as_tensor(np_obj, dtype=torch.float32).permute(2, 0, 1)[None].contiguous()


def tensor2vec(vector_tensor: Tensor) -> np.ndarray:
    """vector_tensor (N, C, 1, 1) as an array (N, C)."""
    return vector_tensor.detach().cpu()[:, :, 0, 0].numpy()


def l2(p0: np.ndarray, p1: np.ndarray, range: float = 255.0) -> np.floating[Any]:
    """Half the mean squared difference of arrays, each divided by range."""
    half: np.floating[Any] = 0.5 * ((p0 / range - p1 / range) ** 2).mean()
    return half


def psnr(p0: np.ndarray, p1: np.ndarray, peak: float = 255.0) -> np.floating[Any]:
    """The peak signal-to-noise ratio of arrays in dB."""
    import numpy as np

    decibels: np.floating[Any] = 10 * np.log10(peak**2 / np.mean((1.0 * p0 - 1.0 * p1) ** 2))
    return decibels


def dssim(p0: np.ndarray, p1: np.ndarray, range: float = 255.0) -> np.floating[Any]:
    """(1 - SSIM) / 2 of arrays (H, W, C), by scikit-image; lpips calls a function that scikit-image no longer has.

    Raises:
        ModuleNotFoundError: scikit-image is not installed.
    """
    try:
        from skimage.metrics import structural_similarity
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("dssim needs the package scikit-image: pip install scikit-image") from error
    similarity: np.floating[Any] = structural_similarity(p0, p1, data_range=range, channel_axis=-1)
    half: np.floating[Any] = (1 - similarity) / 2
    return half

"""How good an enlarged picture is: PSNR and SSIM on luma, and perceptual distances."""

from __future__ import annotations

from collections.abc import Callable

import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

import perceptual_ops as po
from perceptual_ops.networks.weights import available

Score = Callable[[Tensor, Tensor], float]
HIGHER_IS_BETTER = ("PSNR", "SSIM")


def luma(image: Tensor, border: int):
    """Y of ITU-R BT.601 (H, W), 16 to 235, of an image (1, 3, H, W) in [0, 1] in 8 bits, without its border."""
    pixels = image[0].mul(255).round().div(255).permute(1, 2, 0).double().numpy()
    return rgb2ycbcr(pixels)[border : pixels.shape[0] - border, border : pixels.shape[1] - border, 0]


def scores(border: int) -> dict[str, Score]:
    """Name -> (output, target), images (1, 3, H, W) in [0, 1] -> number.

    As super-resolution papers measure: on luma, without as many pixels at the border as the scale. Perceptual distances
    are those whose weights are here: ST-LPIPS always (AlexNet, and VGG16, whose features are also what is trained on),
    LPIPS and DISTS where ImageNet's weights are.
    """

    def psnr(output: Tensor, target: Tensor) -> float:
        return float(peak_signal_noise_ratio(luma(target, border), luma(output, border), data_range=255))

    def ssim(output: Tensor, target: Tensor) -> float:
        # The settings of Wang et al. 2004.
        settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
        return float(structural_similarity(luma(target, border), luma(output, border), **settings))

    found: dict[str, Score] = {"PSNR": psnr, "SSIM": ssim}
    metrics: dict[str, torch.nn.Module] = {
        "ST-LPIPS alex": po.LPIPS("alex", weights="stlpips", input_range=(0, 1)),
        "ST-LPIPS vgg": po.LPIPS("vgg16", weights="stlpips", input_range=(0, 1)),
    }
    present = {file.network for file in available() if file.source == "imagenet" and file.present}
    if "alexnet" in present:
        metrics["LPIPS alex"] = po.LPIPS("alex", input_range=(0, 1))
    if "vgg16" in present:
        metrics["DISTS"] = po.DISTS()
    for name, metric in metrics.items():
        found[name] = _perceptual(metric)
    return found


def _perceptual(metric: torch.nn.Module) -> Score:
    @torch.no_grad()
    def distance(output: Tensor, target: Tensor) -> float:
        return metric(output.clamp(0, 1), target).item()

    return distance

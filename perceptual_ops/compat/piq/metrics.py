"""LPIPS and DISTS."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import _checks as checks
from ...losses import DISTS as _DISTS
from ...losses import LPIPS as _LPIPS
from ...losses.lpips import TRUNKS
from ...networks import IMAGENET_MEAN, IMAGENET_STD, dists_weights, linear_weights
from ...networks.metric_weights import DistsSource, LinearSource
from ...networks.weights import WeightSource
from .._images import check_images
from .content import DISTANCES, ContentLoss

LARGEST = 256  # of DISTS's images, on their shorter side


class LPIPS(nn.Module):
    """piq's `LPIPS`, over VGG16.

    The linear weights are version 0.1 of the package lpips, which piq's own file repeats; `linear` takes that file. As
    in piq the network follows the images to their device.

    Args:
        replace_pooling: Whether max-pooling is replaced by 2x2 average pooling.
        distance: "mse", or "mae" for the absolute differences of the unit features.
        reduction: "mean" or "sum" over the batch, or "none".
        mean, std: Normalisation of images in [0, 1].
        weights, linear: As of `perceptual_ops.LPIPS`; linear may be the list of tensors that piq downloads.
        compute_dtype, chunk_size, engine, backend: As of `perceptual_ops.LPIPS`. `replace_pooling` and "mae" take
            ordinary autograd.

    Raises:
        TypeError, ValueError, OSError: As `perceptual_ops.LPIPS`.
    """

    def __init__(
        self,
        replace_pooling: bool = False,
        distance: str = "mse",
        reduction: str = "mean",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        *,
        weights: WeightSource = "imagenet",
        linear: LinearSource = True,
        compute_dtype: torch.dtype | None = None,
        chunk_size: int | None = None,
        engine: str = "lean",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        checks.check_choice("distance", distance, tuple(DISTANCES))
        self._loss: _LPIPS | ContentLoss
        if distance == "mse" and not replace_pooling:
            self._loss = _LPIPS(
                "vgg16", weights=weights, linear=linear, input_range=(0.0, 1.0), reduction=reduction, mean=mean,
                std=std, compute_dtype=compute_dtype, chunk_size=chunk_size, engine=engine, backend=backend,
            )  # fmt: skip
            return
        name, channels = TRUNKS["vgg16"]
        numbers = linear_weights(linear, name, "0.1", weights, list(channels.values()))
        self._loss = ContentLoss(
            name, tuple(channels), [number.view(1, -1, 1, 1) for number in numbers], replace_pooling, distance,
            reduction, mean, std, normalize_features=True, network_weights=weights, compute_dtype=compute_dtype,
            chunk_size=chunk_size, engine=engine, backend=backend,
        )  # fmt: skip

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The distance of images x and y (N, 3, H, W): a scalar, or (N,) for reduction="none"."""
        if isinstance(self._loss, _LPIPS):
            _follow(self, self._loss._device, x)
            check_images(self._loss, x=x, y=y)
        return self._loss(x, y)


class DISTS(nn.Module):
    """piq's `DISTS`: images whose shorter side is above 256 are scaled down to it first, bilinearly.

    Repeated from piq unless `sum_of_distances` is set: reduction="sum" gives 1 - the sum of the similarities, which is
    N - 1 below the sum of the distances. As in piq the network follows the images to their device.

    Args:
        reduction: "mean" or "sum" over the batch, or "none".
        mean, std: Normalisation of images in [0, 1].
        sum_of_distances: Whether reduction="sum" sums the distances.
        resize: Whether large images are scaled down.
        weights: Of VGG16, see `perceptual_ops.load_network`.
        alpha_beta: The learned numbers: None for those of DISTS, divided by their sum; or, for instance, piq's own
            file, by its path or as a state dict, which is taken as it is, as piq does.
        compute_dtype, chunk_size, engine, backend: As of `perceptual_ops.DISTS`.

    Raises:
        TypeError, ValueError, OSError: As `perceptual_ops.DISTS`.
    """

    def __init__(
        self,
        reduction: str = "mean",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        *,
        sum_of_distances: bool = False,
        resize: bool = True,
        weights: WeightSource = "imagenet",
        alpha_beta: DistsSource = None,
        compute_dtype: torch.dtype | None = None,
        chunk_size: int | None = None,
        engine: str = "lean",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.reduction = reduction
        self.sum_of_distances = sum_of_distances
        self.resize = resize
        self._loss = _DISTS(
            weights=weights, alpha_beta=alpha_beta, normalize_weights=alpha_beta is None, reduction=reduction,
            mean=mean, std=std, compute_dtype=compute_dtype, chunk_size=chunk_size, engine=engine, backend=backend,
        )  # fmt: skip
        # piq takes the weighted similarities from 1, ours from the sum of the weights.
        self._offset = 0.0
        if alpha_beta is not None:
            numbers = [*dists_weights(alpha_beta)[0], *dists_weights(alpha_beta)[1]]
            self._offset = 1 - torch.cat(numbers).double().sum().item()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The distance of images x and y (N, 3, H, W): a scalar, or (N,) for reduction="none"."""
        _follow(self, self._loss._device, x)
        check_images(self._loss, x=x, y=y)
        if self.resize and min(x.shape[2:]) > LARGEST:
            scale = LARGEST / min(x.shape[2:])
            x, y = (F.interpolate(images, scale_factor=scale, mode="bilinear") for images in (x, y))
        loss = self._loss(x, y)
        if self.reduction != "sum":
            return loss + self._offset
        shift = len(x) * self._offset
        return loss + (shift if self.sum_of_distances else shift + 1 - len(x))


def _follow(module: nn.Module, device: torch.device, images: object) -> None:
    if isinstance(images, Tensor) and images.device != device:
        module.to(images.device)

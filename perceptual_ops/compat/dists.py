"""The package DISTS-pytorch (DISTS_pytorch/DISTS_pt.py, 0.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import _checks as checks
from ..losses import DISTS as _DISTS
from ..networks import DISTS_CHANNELS
from ..networks.metric_weights import DistsSource
from ..networks.weights import WeightSource
from ._images import check_images


class DISTS(nn.Module):
    """DISTS-pytorch's `DISTS`: (N,), or a scalar for a batch of 1, from images in [0, 1].

    Repeated from there: no gradient flows to the images unless a call says `require_grad=True`. Otherwise than there:
    alpha and beta are not trainable, so that the backward of a loss without gradient raises instead of doing nothing.

    Args:
        load_weights: Whether alpha and beta are the learned ones; else they are drawn from a normal distribution around
            0.1, with the global random numbers.
        weights: Of VGG16, see `perceptual_ops.load_network`.
        alpha_beta: The learned numbers, in place of the official ones; see `perceptual_ops.DISTS`.
        compute_dtype, chunk_size, engine, backend: As of `perceptual_ops.DISTS`.

    Raises:
        TypeError, ValueError, OSError: As `perceptual_ops.DISTS`.
    """

    def __init__(
        self,
        load_weights: bool = True,
        *,
        weights: WeightSource = "imagenet",
        alpha_beta: DistsSource = None,
        compute_dtype: torch.dtype | None = None,
        chunk_size: int | None = None,
        engine: str = "lean",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if alpha_beta is None and not load_weights:
            alpha_beta = {name: torch.empty(sum(DISTS_CHANNELS)).normal_(0.1, 0.01) for name in ("alpha", "beta")}
        self._loss = _DISTS(
            weights=weights, alpha_beta=alpha_beta, compute_dtype=compute_dtype, chunk_size=chunk_size, engine=engine,
            backend=backend,
        )  # fmt: skip

    def forward(self, x: Tensor, y: Tensor, require_grad: bool = False, batch_average: bool = False) -> Tensor:
        """The distance of image pairs.

        Args:
            x, y: Images (N, 3, H, W).
            require_grad: Whether gradients flow to the images that require them.
            batch_average: Whether to return the mean over the batch; that of a batch of 0 is 0.
        """
        check_images(self._loss, x=x, y=y)
        with torch.set_grad_enabled(require_grad and torch.is_grad_enabled()):
            distance = self._loss(x, y)
        return checks.reduce(distance, "mean") if batch_average else distance.squeeze()

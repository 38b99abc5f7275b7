"""piqa's LPIPS (piqa/lpips.py, 1.3.2)."""

from __future__ import annotations

import re
from typing import ClassVar

from torch import Tensor
from typing_extensions import Never, Unpack

from .. import _checks as checks
from .._settings import Fixed, fixed, passed_on
from ..losses import LPIPS as _LPIPS
from ..losses.options import EngineOptions, takes_engine_options
from ..names import Reduction
from ..networks.weights import WeightSource
from ._checkpoint import DropsPeerState
from ._images import check_images
from ._lpips import NETWORKS, Net
from ._options import HasEngineOptions


class LPIPS(DropsPeerState, HasEngineOptions):
    """piqa's `LPIPS`: a scalar, or (N,) for reduction="none", from images in [0, 1], whose range is not checked.

    Differences from piqa: the gradient at features that are all zero is 0, not NaN. Its state dict is empty; in a
    checkpoint of a model that held piqa's, whose weights are frozen as well, those are dropped.

    Args:
        network: "alex", "vgg" or "squeeze".
        epsilon: Beside the length of a pixel's channels.
        reduction: "mean" or "sum" over the batch, or "none".
        weights: Weights of the network, see `perceptual_ops.LPIPS`.
        options: Options of the engine, see `perceptual_ops.losses.EngineOptions`. They, `epsilon` and `reduction` may
            be set later, too.

    Raises:
        TypeError, ValueError, OSError: As `perceptual_ops.LPIPS`.
    """

    peer_keys: ClassVar[re.Pattern[str]] = re.compile(
        r"normalize\.(shift|scale)|net\.blocks\.[\w.]+\.(weight|bias)|weights\.\d+"
    )

    epsilon: float = passed_on("epsilon", known_as="eps")
    reduction: Reduction = passed_on("reduction")
    network: Fixed[Net] = fixed("network")
    weights: Fixed[Never] = fixed("weights")

    @takes_engine_options
    def __init__(
        self,
        network: Net = "alex",
        epsilon: float = 1e-10,
        reduction: Reduction = "mean",
        *,
        weights: WeightSource = "imagenet",
        **options: Unpack[EngineOptions],
    ) -> None:
        super().__init__()
        checks.check_choice("network", network, NETWORKS)
        self._loss = _LPIPS(
            network, weights=weights, input_range=(0.0, 1.0), reduction=reduction, eps=epsilon,
            **options,
        )  # fmt: skip
        self._network = network

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The distance of image pairs.

        Args:
            x, y: Images (N, 3, H, W), or (N, 1, H, W) for grey; either may be a batch of 1. Gradients flow to those
                that require them.
        """
        check_images(self._loss, x=x, y=y)
        return self._loss(x, y)

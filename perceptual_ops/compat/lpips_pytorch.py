"""The package lpips_pytorch, in Gaussian splatting lpipsPyTorch (lpips_pytorch/__init__.py, modules/lpips.py)."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor
from typing_extensions import Never, Unpack

from .. import _checks as checks
from .._settings import Fixed, fixed
from ..losses import LPIPS as _LPIPS
from ..losses.options import EngineOptions, takes_engine_options
from ..networks.weights import WeightSource
from ._checkpoint import DropsPeerState
from ._kept import kept_network
from ._lpips import NETWORKS, Net, pair_of
from ._options import HasEngineOptions

Version = Literal["0.1"]
VERSIONS: tuple[Version, ...] = get_args(Version)


class LPIPS(DropsPeerState, HasEngineOptions):
    """lpips_pytorch's `LPIPS`: (1, 1, 1, 1), **summed over the batch**, from images in [-1, 1].

    Differences: the gradient at features that are all zero is 0, not NaN. Its state dict is empty; in a
    checkpoint of a model that held lpips_pytorch's, whose weights are frozen as well, those are dropped.

    Args:
        net_type: "alex", "vgg" or "squeeze".
        version: "0.1".
        weights: Weights of the network, see `perceptual_ops.LPIPS`.
        options: Options of the engine, see `perceptual_ops.losses.EngineOptions`.

    Raises:
        TypeError, ValueError, OSError: As `perceptual_ops.LPIPS`.
    """

    peer_keys: ClassVar[re.Pattern[str]] = re.compile(
        r"net\.(mean|std)|net\.layers\.[\w.]+\.(weight|bias)|lin\.\d+\.1\.weight"
    )

    net_type: Fixed[Net] = fixed("net_type")
    version: Fixed[Version] = fixed("version", "_linear_version")
    weights: Fixed[Never] = fixed("weights")

    @takes_engine_options
    def __init__(
        self,
        net_type: Net = "alex",
        version: Version = "0.1",
        *,
        weights: WeightSource = "imagenet",
        **options: Unpack[EngineOptions],
    ) -> None:
        super().__init__()
        checks.check_choice("net_type", net_type, NETWORKS)
        checks.check_choice("version", version, VERSIONS)
        self._loss = _LPIPS(net_type, weights=weights, **options)
        self._net_type, self._linear_version = net_type, version  # nn.Module has a `_version`

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of the distances of image pairs.

        Args:
            x, y: Images (N, 3, H, W), or (N, 1, H, W) for grey; either may be a batch of 1, or (3, H, W). Gradients
                flow to those that require them.
        """
        return self._loss(*pair_of(self._loss, x=x, y=y)).sum().view(1, 1, 1, 1)


def lpips(
    x: Tensor, y: Tensor, net_type: Net = "alex", version: Version = "0.1", *, weights: WeightSource = "imagenet"
) -> Tensor:
    """lpips_pytorch's function, (1, 1, 1, 1); the network is kept for the next call unless weights is a state dict.

    Args:
        x, y: Images (N, 3, H, W) in [-1, 1]. The network follows them to their device, and to fp64.
        net_type, version, weights: As of `LPIPS`.
    """
    checks.check_choice("version", version, VERSIONS)
    loss: LPIPS = kept_network(_make, net_type, weights, x)
    return loss(x, y)


def _make(net_type: Any, weights: WeightSource) -> LPIPS:
    return LPIPS(net_type, weights=weights)

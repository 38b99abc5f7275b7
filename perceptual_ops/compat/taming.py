"""The LPIPS of taming-transformers and latent-diffusion (taming/modules/losses/lpips.py)."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from .._settings import Fixed, fixed
from ..losses import LPIPS as _LPIPS
from ..losses.options import EngineOptions, takes_engine_options
from ..networks.metric_weights import LinearSource
from ..networks.weights import WeightSource
from ._lpips import LpipsModule, pair_of


class LPIPS(LpipsModule):
    """taming's `LPIPS`: (N, 1, 1, 1) from images in [-1, 1], by **VGG16** (that of `compat.lpips` is AlexNet's).

    Differences from taming: dropout never runs, so `use_dropout` changes nothing; the gradient at features that are
    all zero is 0, not NaN; its file of linear weights, which is that of lpips 0.1, comes with this library.

    Its state dict is empty. A checkpoint of a model that held taming's loads nevertheless; see `compat.lpips.LPIPS`,
    which has the same attributes.

    Args:
        use_dropout: Changes nothing.
        weights, linear: Weights of the network and of its linear layers, see `perceptual_ops.LPIPS`.
        options: Options of the engine, see `perceptual_ops.losses.EngineOptions`.

    Raises:
        TypeError, ValueError, OSError: As `perceptual_ops.LPIPS`.
    """

    use_dropout: Fixed[bool] = fixed("use_dropout")

    @takes_engine_options
    def __init__(
        self,
        use_dropout: bool = True,
        *,
        weights: WeightSource = "imagenet",
        linear: LinearSource = True,
        **options: Unpack[EngineOptions],
    ) -> None:
        super().__init__(_LPIPS("vgg16", weights=weights, linear=linear, **options))
        self._use_dropout = use_dropout

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The distance of image pairs.

        Args:
            input, target: Images (N, 3, H, W), or (N, 1, H, W) for grey; either may be a batch of 1, or (3, H, W).
                Gradients flow to those that require them.
        """
        return self._loss(*pair_of(self._loss, input=input, target=target)).view(-1, 1, 1, 1)

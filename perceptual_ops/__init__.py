"""Fused, differentiable perceptual losses for PyTorch."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from . import _program, reference  # noqa: F401  # the first before torch, which reference imports
from .losses import DISTS, LPIPS, PerceptualLoss, chunked, gradient_of
from .metric_ops import dists_distance, lpips_distance
from .networks import load_network
from .ops import channel_statistics, feature_loss, gram_matrix, style_loss, total_variation

__version__ = "0.1.0"

__all__ = [
    "DISTS",
    "LPIPS",
    "PerceptualLoss",
    "channel_statistics",
    "chunked",
    "distributed",
    "dists_distance",
    "feature_loss",
    "gradient_of",
    "gram_matrix",
    "load_network",
    "lpips_distance",
    "reference",
    "style_loss",
    "total_variation",
]


if TYPE_CHECKING:
    from . import distributed
else:

    def __getattr__(name: str) -> ModuleType:
        """`distributed`, when it is asked for: it imports torch.compile, which takes as long as all the rest."""
        if name != "distributed":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return importlib.import_module(".distributed", __name__)

"""Fused, differentiable perceptual losses for PyTorch."""

from . import reference
from .ops import feature_loss, gram_matrix, style_loss, total_variation

__version__ = "0.1.0"

__all__ = ["feature_loss", "gram_matrix", "reference", "style_loss", "total_variation"]

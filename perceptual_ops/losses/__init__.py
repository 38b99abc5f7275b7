"""Loss modules over frozen networks."""

from .perceptual import PerceptualLoss

__all__ = ["PerceptualLoss"]

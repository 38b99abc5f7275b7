"""Loss modules over frozen networks."""

from .dists import DISTS
from .lpips import LPIPS
from .perceptual import PerceptualLoss

__all__ = ["DISTS", "LPIPS", "PerceptualLoss"]

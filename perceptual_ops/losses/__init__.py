"""Loss modules over frozen networks."""

from .chunked_loss import chunked
from .dists import DISTS
from .lpips import LPIPS
from .options import EngineOptions
from .perceptual import PerceptualLoss

__all__ = ["DISTS", "LPIPS", "EngineOptions", "PerceptualLoss", "chunked"]

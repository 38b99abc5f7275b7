"""Loss modules over frozen networks."""

from .chunked_loss import Chunked, chunked
from .dists import DISTS
from .gradients import gradient_of
from .lpips import LPIPS
from .options import EngineOptions
from .perceptual import PerceptualLoss

__all__ = ["DISTS", "LPIPS", "Chunked", "EngineOptions", "PerceptualLoss", "chunked", "gradient_of"]

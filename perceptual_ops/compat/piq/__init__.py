"""piq's perceptual losses (piq/perceptual.py, 0.8.0), and the total variation (piq/tv.py) that goes with them."""

from .content import ContentLoss, StyleLoss
from .metrics import DISTS, LPIPS
from .variation import TVLoss, total_variation

__all__ = ["DISTS", "LPIPS", "ContentLoss", "StyleLoss", "TVLoss", "total_variation"]

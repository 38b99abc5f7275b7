"""piq's perceptual losses (piq/perceptual.py, 0.8.0)."""

from .content import ContentLoss, StyleLoss
from .metrics import DISTS, LPIPS

__all__ = ["DISTS", "LPIPS", "ContentLoss", "StyleLoss"]

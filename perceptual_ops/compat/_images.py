"""The check of images by the names that the library stood in for gives them."""

from __future__ import annotations

from ..losses.metric import MetricLoss


def check_images(loss: MetricLoss, **images: object) -> None:  # each (N, 3, H, W), or (N, 1, H, W) for grey
    """Raises for images that `loss` would refuse; it would call them output and target."""
    for name, batch in images.items():
        loss._images(name, batch, loss._trunk_layers)

"""The check of images by the names that the library stood in for gives them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..losses.metric import MetricLoss


def check_images(loss: MetricLoss, **images: object) -> None:  # two, each (N, 3, H, W), or (N, 1, H, W) for grey
    """Raises for a pair of images that `loss` would refuse; it would call them output and target."""
    pair = {name: loss.checked_images(name, batch, loss.network_layers) for name, batch in images.items()}
    check_pair(pair, either=True)


def check_pair(pair: Mapping[str, Tensor], *, either: bool = False, same_size: bool = True) -> None:
    """Raises for a pair that does not match.

    Args:
        pair: Two batches of images (N, C, H, W), by their names.
        either: Whether the first may be a batch of 1, too, that stands for all of the second; the second always may.
        same_size: Whether the images must be of one size, too.
    """
    (name, first), (other, second) = pair.items()
    batches = [first.shape[0], second.shape[0]]
    one_for_all = 1 in batches if either else batches[1] == 1
    size = " and size" if same_size else ""
    unlike = same_size and (first.shape[2] != second.shape[2] or first.shape[3] != second.shape[3])
    if unlike or (batches[0] != batches[1] and not one_for_all):
        raise ValueError(
            f"{other}: expected the batch{size} of {name}, or a batch of 1; {name} is {tuple(first.shape)}, "
            f"{other} {tuple(second.shape)}"
        )

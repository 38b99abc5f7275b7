"""The check of the values of images, which torch.compile takes as one operator of the graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# As torchmetrics says it, which tests of projects wait for.
WORDS = "Expected both input arguments to be normalized tensors with shape [N, 3, H, W]"

# An older torch captures CUDA graphs of compiled code with every operator in them, and its custom_op takes no tags.
_SETTINGS: dict[str, Any] = {"tags": (torch.Tag.cudagraph_unsafe,)} if hasattr(torch.Tag, "cudagraph_unsafe") else {}


@torch.library.custom_op(
    "perceptual_ops::check_ranges", mutates_args=(),
    schema="(Tensor img1, Tensor img2, bool normalize) -> Tensor",  # torch 2.4 reads no annotations that are strings
    **_SETTINGS,
)  # fmt: skip
def check_ranges(img1: Tensor, img2: Tensor, normalize: bool) -> Tensor:  # (N, 3, H, W) twice -> ()
    """0 for images in range, to be added to their scores: what nobody reads the compiler leaves out.

    Raises:
        ValueError: Images out of [0, 1] for normalize, else below -1.
    """
    found = img1.new_zeros((), dtype=torch.float32)
    if not len(img1) or not len(img2):
        return found
    low, high = (0.0, 1.0) if normalize else (-1.0, float("inf"))
    # One wait for the GPU, not one for each number.
    ends = torch.stack([end.float() for images in (img1, img2) for end in torch.aminmax(images)]).tolist()
    for name, least, most in zip(("img1", "img2"), ends[::2], ends[1::2], strict=True):
        if not (least >= low and most <= high):
            expected = "[0, 1]" if normalize else "[-1, 1]"
            raise ValueError(
                f"{name}: expected values in {expected} for normalize={normalize}, got {least:.6g} to {most:.6g}; "
                f"clamp it, or set check_range=False ({WORDS})"
            )
    return found


@check_ranges.register_fake
def _(img1: Tensor, img2: Tensor, normalize: bool) -> Tensor:
    return img1.new_empty((), dtype=torch.float32)

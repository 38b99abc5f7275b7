"""The size in which images enter a network: resized or cropped, alike for output and target."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks as checks
from .custom_op import under_autograd

INTERPOLATIONS = ("bilinear", "bicubic")
CROPS = ("center_crop", "random_crop")
RESIZE_MODES = (*INTERPOLATIONS, *CROPS)


@dataclass(frozen=True)
class InputSize:
    """The size that a network takes, and how images are brought to it.

    Attributes:
        height, width: In pixels.
        mode: One of `RESIZE_MODES`. Interpolations are antialiased, as torchvision's and PIL's, and do not clamp.
        corner: (2,) int64 on the CPU: the first row and column of a random crop, once they are drawn.
    """

    height: int
    width: int
    mode: str
    corner: Tensor | None = None

    def drawn(self, images: Tensor) -> InputSize:
        """The same for one call with images (N, C, H, W), which must not be smaller than a crop of them."""
        checks.check_choice("resize_mode", self.mode, RESIZE_MODES)
        if self.mode in INTERPOLATIONS:
            return self
        rows, columns = images.shape[2] - self.height, images.shape[3] - self.width
        if rows < 0 or columns < 0:
            raise ValueError(
                f"input_size: expected images of at least {self.height} x {self.width} pixels to crop, got "
                f'{images.shape[2]} x {images.shape[3]}; use resize_mode="bilinear"'
            )
        if self.mode == "center_crop":
            return self
        draws = torch.rand(2, dtype=torch.float64, device="cpu")
        return replace(self, corner=torch.stack([(draws[0] * (rows + 1)).long(), (draws[1] * (columns + 1)).long()]))

    def __call__(self, images: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, height, width)
        """The images in that size; differentiable."""
        if self.mode in INTERPOLATIONS:
            wide = images.to(checks.accumulator_dtype(images))
            return F.interpolate(wide, (self.height, self.width), mode=self.mode, antialias=True)
        if self.corner is None:
            top, left = (images.shape[2] - self.height) // 2, (images.shape[3] - self.width) // 2
            return images[:, :, top : top + self.height, left : left + self.width]
        rows, columns = (
            first + torch.arange(count, device="cpu")
            for first, count in zip(self.corner.unbind(), (self.height, self.width), strict=True)
        )
        return images.index_select(2, rows.to(images.device)).index_select(3, columns.to(images.device))

    def backward(self, grad: Tensor, images: Tensor) -> Tensor:  # (n, C, height, width) -> (n, C, H, W)
        """The gradient with respect to the images."""
        with under_autograd():
            leaf = images.detach().to(grad.dtype).requires_grad_()
            (found,) = torch.autograd.grad(self(leaf), leaf, grad)
        return found

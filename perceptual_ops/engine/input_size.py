"""The input size of a network: images are resized or cropped, output and target alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor

from .. import _checks as checks
from ..names import ResizeMode
from .antialiasing import INTERPOLATIONS, area_average, resized
from .modes import under_autograd
from .operator_settings import OperatorSettings

if TYPE_CHECKING:
    from typing_extensions import Self

RESIZE_MODES: tuple[ResizeMode, ...] = get_args(ResizeMode)


@dataclass(frozen=True)
class InputSize(OperatorSettings):
    """The size that a network takes, and how images are resized to it.

    Attributes:
        height, width: In pixels; 0 for that of the images.
        mode: One of `RESIZE_MODES`. Interpolations are antialiased, as torchvision's and PIL's, and do not clamp.
        corner: (2,) int64, the first row and column of a random crop once they are drawn, on the CPU; a CUDA graph has
            it on its device.
    """

    height: int
    width: int
    mode: str
    corner: Tensor | None = None

    @classmethod
    def of_images(cls) -> Self:
        """The images' own size."""
        return cls(0, 0, RESIZE_MODES[0])

    @property
    def is_given(self) -> bool:
        return self.height > 0

    def drawn(self, images: Tensor) -> Self:
        """The same for one call with images (N, C, H, W), which must not be smaller than a crop of them."""
        if not self.is_given or self.mode in INTERPOLATIONS:
            return self
        checks.check_choice("resize_mode", self.mode, RESIZE_MODES)
        rows, columns = images.shape[2] - self.height, images.shape[3] - self.width
        if rows < 0 or columns < 0:
            raise ValueError(
                f"input_size: expected images of at least {self.height} x {self.width} pixels to crop, got "
                f'{images.shape[2]} x {images.shape[3]}; use resize_mode="bilinear"'
            )
        if self.mode == "center_crop":
            return self
        draws = torch.rand(2, dtype=torch.float64, device="cpu")
        corner = torch.stack([draws[0] * (rows + 1), draws[1] * (columns + 1)])
        return replace(self, corner=corner.long())

    def entered(self, images: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, height, width)
        """The images in that size; differentiable."""
        if not self.is_given:
            return images
        if self.mode in INTERPOLATIONS:
            return resized(images.to(checks.accumulator_dtype(images)), self.height, self.width, self.mode)
        if self.mode == "center_crop":
            top, left = (images.shape[2] - self.height) // 2, (images.shape[3] - self.width) // 2
            return images[:, :, top : top + self.height, left : left + self.width]
        checks.check_choice("resize_mode", self.mode, RESIZE_MODES)
        assert self.corner is not None, "it is drawn"
        # By tensors, since torch.compile cannot trace a slice from a number that is drawn.
        device, size = self.corner.device, (self.height, self.width)
        rows, columns = (self.corner[i] + torch.arange(size[i], device=device) for i in (0, 1))
        return images.index_select(2, rows.to(images.device)).index_select(3, columns.to(images.device))

    def of_mask(self, mask: Tensor, images: Tensor) -> Tensor:  # (N or 1, 1, H, W) -> (N or 1, 1, height, width)
        """A mask of images (N, C, H', W') or clips, resized by area averages or cropped as they are."""
        if self.is_given and self.mode in INTERPOLATIONS:
            return area_average(mask, self.height, self.width)
        of_images = area_average(mask, images.shape[-2], images.shape[-1])
        return self.entered(of_images) if self.is_given else of_images

    def backward(self, images: Tensor, gradient_of: Callable[[Tensor], Tensor]) -> Tensor:  # (n, C, H, W)
        """The gradient with respect to images (n, C, H, W), whose dtype it has.

        Args:
            images: What `self` resizes.
            gradient_of: Gives the gradient (n, C, height, width) with respect to the resized images, given those.
        """
        with under_autograd():
            leaf = images.detach().requires_grad_()
            entered = self.entered(leaf)
            (gradient,) = torch.autograd.grad(entered, leaf, gradient_of(entered.detach()))
        return gradient

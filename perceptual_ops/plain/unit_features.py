"""The gradient of a distance between features of unit length: of LPIPS, and of the cosine distance."""

from __future__ import annotations

from torch import Tensor

from .. import _checks as checks
from .strides import strided_like


def pixel_gradients(
    x: Tensor,  # (N, C, H, W)
    y: Tensor,  # (N or 1, C, H, W)
    weights: Tensor,  # (C)
    eps: float,
    eps_inside: bool,
    upstream: Tensor,  # (N, 1, 1 or H, 1 or W), of each pixel
    by_x: bool,
    by_y: bool,
) -> list[Tensor]:
    """Those by x and by y (N, C, H, W), the wanted ones, of the sum of upstream * `reference.lpips_maps`."""
    sides = [_Side(z.to(checks.accumulator_dtype(x)), eps, eps_inside) for z in (x, y)]
    slope = (sides[0].unit - sides[1].unit).mul_(2 * weights.view(1, -1, 1, 1)).mul_(upstream)
    found = [strided_like(x, sides[0].gradient(slope))] if by_x else []
    return [*found, strided_like(x, sides[1].gradient(-slope))] if by_y else found


class _Side:
    """Features divided by their lengths, see `reference.unit_features`."""

    def __init__(self, x: Tensor, eps: float, eps_inside: bool) -> None:  # (N or 1, C, H, W)
        squares = x.square().sum(1, keepdim=True)
        if eps_inside:
            self._length = self._slope_divisor = (squares + eps).sqrt_()
        else:
            # Where a pixel has no features at all, no gradient flows to them: their length counts as infinite.
            self._slope_divisor = squares.sqrt().masked_fill_(squares == 0, float("inf"))
            self._length = self._slope_divisor + eps
        self.unit = x / self._length

    def gradient(self, slope: Tensor) -> Tensor:  # (N, C, H, W), by the unit features
        along = (slope * self.unit).sum(1, keepdim=True).div_(self._slope_divisor)
        return slope / self._length - self.unit * along

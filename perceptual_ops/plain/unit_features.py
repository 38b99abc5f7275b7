"""The distance of unit-length features in LPIPS and the cosine distance, with its gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _checks as checks
from .blocks import row_blocks

MAPS = 4  # temporaries per block, roughly


def pixel_terms(
    x: Tensor,  # (N, C, H, W)
    y: Tensor,  # (N or 1, C, H, W)
    weights: Tensor,  # (C)
    eps: float,
    eps_inside: bool,
    values: Tensor | None,  # (N, 1, H, W)
    upstream: Tensor | None = None,  # (N, 1, 1 or H, 1 or W), of each pixel
    by_x: bool = False,
    by_y: bool = False,
) -> list[Tensor]:
    """Writes `reference.lpips_maps` into values; returns the wanted d sum(upstream * values) / dx and / dy."""
    dtype = checks.accumulator_dtype(x)
    made = [torch.empty_like(x) if one else None for one in (by_x, by_y)]
    weights = weights.view(1, -1, 1, 1)
    for rows in row_blocks(x, MAPS):
        sides = [_Side(z[:, :, rows].to(dtype), eps, eps_inside) for z in (x, y)]
        error = _difference(*sides)
        slope = error * weights
        if values is not None:
            torch.sum(slope * error, 1, keepdim=True, out=values[:, :, rows])
        if upstream is None:
            continue
        slope *= 2 * (upstream[:, :, rows] if upstream.shape[2] > 1 else upstream)
        for side, sign, gradient in zip(sides, (1, -1), made, strict=True):
            if gradient is not None:
                gradient[:, :, rows].copy_(side.gradient(slope if sign > 0 else -slope))
    return [gradient for gradient in made if gradient is not None]


def pixel_values(x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, 1, H, W), to be written
    return x.new_empty((x.shape[0], 1, *x.shape[2:]), dtype=checks.accumulator_dtype(x))


class _Side:
    """Features divided by their lengths, see `reference.unit_features`."""

    def __init__(self, x: Tensor, eps: float, eps_inside: bool) -> None:  # (N or 1, C, H, W)
        squares = x.square().sum(1, keepdim=True)
        self.x, self.root = x, (squares + eps if eps_inside else squares).sqrt_()
        self.length = self.root if eps_inside else self.root + eps
        self._slope_divisor, self._divisor = self.root, self.length
        if not eps_inside:
            # A pixel whose features are all 0 gets no gradient: its length counts as infinite.
            self._slope_divisor = self.root.masked_fill(squares == 0, float("inf"))
            self._divisor = self._slope_divisor + eps
        self.unit = x / self._divisor

    def gradient(self, slope: Tensor) -> Tensor:  # (N, C, H, W), with respect to the unit features
        along = (slope * self.unit).sum(1, keepdim=True).div_(self._slope_divisor)
        return (slope / self._divisor).addcmul_(self.unit, along, value=-1)


def _difference(x: _Side, y: _Side) -> Tensor:
    """x.unit - y.unit without cancellation where they are nearly equal.

    With d = x - y and l the length of x less that of y it is (d - l x.unit) / y.length, and (d - l y.unit) / x.length:
    the one that divides by the longer, since the other may be 0.
    """
    error = x.x - y.x
    roots = (x.root + y.root).clamp_(min=torch.finfo(error.dtype).tiny)
    longer = (error * (x.x + y.x)).sum(1, keepdim=True).div_(roots)
    by_x = (x.root >= y.root).to(error.dtype)
    share = longer / torch.maximum(x.length, y.length)
    error /= torch.maximum(x.length, y.length)
    error.addcmul_(y.unit, share * by_x, value=-1)
    return error.addcmul_(x.unit, share * (1 - by_x), value=-1)

"""Bounds of style gradients, after which fp16 gradients are scaled: never below them, and not far above."""

from __future__ import annotations

import masked
import pytest
import torch
from torch import Tensor

from perceptual_ops.engine.masks import Masks
from perceptual_ops.engine.perceptual_head import PerceptualHead
from perceptual_ops.engine.terms import NO_PART, Part, Terms

pytestmark = pytest.mark.usefixtures("library")

LAYER, SIZE = "relu", 8


def lonely_pixels() -> Tensor:  # (1, 3, 8, 8), fp32
    """Of channels of -1 one pixel of 1 each: nearly twice the largest number away from the mean."""
    x = -torch.ones(1, 3, SIZE, SIZE)
    x[:, [0, 1, 2], [0, 3, 5], [1, 4, 7]] = 1.0
    return x.contiguous(memory_format=torch.channels_last)


def statistics(x: Tensor) -> Tensor:  # (n, C, h, w) -> (n, 2, C)
    return torch.stack([x.mean((2, 3)), (x.var((2, 3), correction=0) + 1e-5).sqrt()], 1)


def bound_and_largest(terms: Terms, x: Tensor, styles: list[Tensor], guides: list[Tensor]) -> tuple[float, float]:
    """The bound of the gradient with respect to a map."""
    head = PerceptualHead(terms, torch.float32, [], styles, True, False, masks=Masks.of(None, guides))
    head.on_tap(LAYER, x)
    head.terms()
    bound = head.bound(LAYER).item()
    return bound, head.gradient(LAYER, None).abs().max().item()


def terms_of(**settings: object) -> Terms:
    return Terms(NO_PART, Part((LAYER,), (1.0,), "mse", 0.0), "chw", 0.0, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["mean_std", "both"])
@pytest.mark.parametrize("row", [0, 1], ids=["means", "deviations"])
def test_means_and_deviations(row: int, kind: str) -> None:
    """Of targets that differ in one of them alone."""
    x = lonely_pixels()
    target = statistics(x)
    target[:, row] += 0.5
    if kind == "both":
        target = torch.cat([masked.guided_gram(x, torch.ones_like(x[:, :1])), target], 1)
    bound, largest = bound_and_largest(terms_of(style_statistics=kind), x, [target], [])
    assert 0 < largest <= bound * (1 + 1e-5) and bound <= 1.1 * largest


@pytest.mark.parametrize("shares", [(0.5, 0.5), (1e-6, 1 - 1e-6), (1 - 1e-6, 1e-6)], ids=str)
def test_regions(shares: tuple[float, float]) -> None:
    """Halves of an image, whose slopes cancel out where their shares are alike."""
    x, left = torch.ones(1, 3, SIZE, SIZE), torch.zeros(1, 1, SIZE, SIZE)
    left[..., : SIZE // 2] = 1.0
    guides = [left, 1 - left]
    styles = [masked.guided_gram(x, guide) + off for guide, off in zip(guides, (0.5, -0.5), strict=True)]
    bound, largest = bound_and_largest(terms_of(shares=shares), x, styles, guides)
    assert 0 < largest <= bound * (1 + 1e-5) and bound <= 2.1 * largest

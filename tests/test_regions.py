"""Styles of regions, each with a mask of the output's pixels, against a plain formula in fp64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import masked
import pytest
import torch
from maps import assert_close_by_scale
from masked import assert_alike, mask
from test_clips import engines, make, refused
from test_masks import SETTINGS, images
from torch import Tensor

import perceptual_ops as po

pytestmark = pytest.mark.usefixtures("on_device")

H, W = 23, 26
SHARES = (0.25, 0.75)


def styles() -> list[Tensor]:
    return [images(1, 7, 20), images(1, 8, 31)]


def masks() -> list[Tensor]:
    """A soft one, and a hard one of another size that overlaps it."""
    hard = torch.zeros_like(mask(1, 1, 11, 12)).bool()
    hard[:, :, 3:, :5] = True
    return [mask(1, 1, H, W), hard]


def plain(engine: str = "lean", **settings: object) -> po.PerceptualLoss:
    return make(engine, **{"tv_weight": 0.0, "style_weight": masked.STYLE_WEIGHT, **settings})


def of_regions(engine: str = "lean", **settings: object) -> po.PerceptualLoss:
    loss = plain(engine, **settings)
    loss.set_style(styles(), weights=[1, 3], masks=masks())
    return loss


@engines
@pytest.mark.parametrize("name", ["mse", "l1, hw", "sse, none", "unit features"])
def test_the_style_of_each_region(name: str, engine: str) -> None:
    x, y = images(2).requires_grad_(), images(2, 1).requires_grad_()
    guides, everywhere = [masked.area(m.double(), H, W) for m in masks()], torch.ones_like(x[:, :1])
    loss = of_regions(engine, **SETTINGS[name])
    found, terms = loss(x, y, return_terms=True)
    wanted = masked.perceptual_loss(x, y, styles(), everywhere, guides, SHARES, **SETTINGS[name])
    assert_alike(found, wanted["content"] + wanted["style"], x, y)
    for term, value in wanted.items():
        torch.testing.assert_close(terms[term], value.detach())


@engines
def test_regions_within_a_mask(engine: str) -> None:
    x, y, m = images(2).requires_grad_(), images(2, 1).requires_grad_(), mask(2, 1, H, W, seed=3)
    guides = [masked.area(guide.double(), H, W) * m for guide in masks()]
    wanted = masked.perceptual_loss(x, y, styles(), m, guides, SHARES)
    assert_alike(of_regions(engine)(x, y, mask=m), wanted["content"] + wanted["style"], x, y)


@engines
def test_one_set_of_masks_serves_every_size(engine: str) -> None:
    loss = of_regions(engine, content_layers=None)
    for size in (16, 31, 45):
        x = images(1, 3, size).requires_grad_()
        everywhere, guides = torch.ones_like(x[:, :1]), [masked.area(m.double(), *x.shape[2:]) for m in masks()]
        wanted = masked.perceptual_loss(x, x, styles(), everywhere, guides, SHARES)
        assert_alike(loss(x), wanted["style"], x)
        torch.testing.assert_close(loss(x, mask=everywhere), loss(x))


@engines
def test_regions_of_other_proportions(engine: str) -> None:
    """Small masks of a panorama, and of one upright."""
    loss, wide = of_regions(engine, content_layers=None), images(1, 3, 96)[:, :, :16]
    for x in (wide, wide.mT):
        x = x.clone().requires_grad_()
        everywhere, guides = torch.ones_like(x[:, :1]), [masked.area(m.double(), *x.shape[2:]) for m in masks()]
        wanted = masked.perceptual_loss(x, x, styles(), everywhere, guides, SHARES)
        assert_alike(loss(x), wanted["style"], x)


def test_regions_of_other_proportions_in_tiles(library: None) -> None:
    x = images(1, 3, 96)[:, :, :16]
    loss = of_regions(content_layers=None, reduction="mean", tile_size=64)
    value, gradient = po.gradient_of(loss, x)
    loss.tile_size = None
    leaf = x.clone().requires_grad_()
    assert_alike(loss(leaf), value + (gradient * (leaf - x)).sum(), leaf)


@engines
def test_a_region_of_everything_is_a_plain_style(engine: str) -> None:
    x, y = images(2), images(2, 1)
    one, loss = plain(engine), plain(engine)
    one.set_style(images(2, 7, 20))
    loss.set_style([images(2, 7, 20)], masks=[torch.ones(1, 1, 5, 5, device=x.device)])
    torch.testing.assert_close(loss(x, y), one(x, y))
    loss.set_style(images(2, 7, 20), masks=[torch.ones(1, 1, 5, 5, device=x.device)])
    torch.testing.assert_close(loss(x, y), one(x, y))


@engines
def test_empty_regions_give_nothing(engine: str) -> None:
    x = images(2).requires_grad_()
    loss = of_regions(engine, content_layers=None)
    some, nothing = masks()[0], torch.zeros_like(masks()[0])
    loss.set_style(styles(), weights=[1, 3], masks=[some, nothing])
    wanted = masked.perceptual_loss(x, x, styles()[:1], torch.ones_like(x[:, :1]), [some], SHARES[:1])
    assert_alike(loss(x), wanted["style"], x)
    loss.set_style(styles(), masks=[nothing, nothing])
    (gradient,) = torch.autograd.grad(loss(x).sum(), x)
    assert not loss(x).any() and not gradient.any()


def test_regions_are_kept_as_styles_are() -> None:
    x, y = images(2), images(2, 1)
    loss, blend = of_regions(), plain()
    blend.set_style(styles(), weights=[1, 3])
    expected = loss(x, y)
    torch.testing.assert_close(copy.deepcopy(loss)(x, y), expected)
    assert loss.float()(x.float(), y.float()).dtype == torch.float32
    loss.double()
    torch.testing.assert_close(loss(x, y, styles()[0]), blend(x, y, styles()[0]))  # a style of the call, everywhere
    torch.testing.assert_close(loss(x, y), expected, rtol=1e-6, atol=0)
    loss.gram_normalize = "hw"
    assert "style: expected style images" in refused(lambda: loss(x, y))
    loss.gram_normalize = "chw"
    loss.set_style(styles(), weights=[1, 3])
    torch.testing.assert_close(loss(x, y), blend(x, y))


def test_regions_in_tiles(library: None) -> None:
    x, y, m = images(1, size=99), images(1, 1, 99), mask(1, 1, 99, 102)
    loss = of_regions(tv_weight=0.01)
    for given in (None, m):
        results = []
        for tile_size in (None, 64):
            loss.tile_size = tile_size
            leaf = x.clone().requires_grad_()
            value = loss(leaf, y, mask=given)
            results.append([value, *torch.autograd.grad(value.sum(), leaf)])
        loss.reduction = "mean"
        results.append(list(po.gradient_of(loss, x, y, mask=given)))
        loss.reduction = "none"
        for found in results[1:]:
            for a, b in zip(found, results[0], strict=True):
                assert_close_by_scale(a.view_as(b), b)


@engines
def test_regions_of_clips_and_lists(engine: str) -> None:
    frames = images(6, 3).unflatten(0, (2, 3)).transpose(1, 2)
    loss = of_regions(engine, content_layers=None)
    wanted = torch.stack([loss(frames[:, :, t]) for t in range(3)], 1)
    torch.testing.assert_close(loss(frames, frames=True), wanted)
    pair = [images(1, 3), images(1, 4, 31)]
    torch.testing.assert_close(loss(pair), torch.cat([loss(z) for z in pair]))


@engines
@pytest.mark.parametrize(
    "settings", [{}, {"chunk_size": 2}, {"normalize_features": "channel"}, {"gram_normalize": "none"}]
)
def test_grams_over_clips(settings: dict[str, object], engine: str) -> None:
    """Of what the masks leave of all frames."""
    x, y = (images(6, seed).unflatten(0, (2, 3)).transpose(1, 2).requires_grad_() for seed in (0, 1))
    frames, targets = (z.transpose(1, 2).flatten(0, 1) for z in (x, y))
    loss = plain(engine, gram_over="clip", **settings)
    names = {name: value for name, value in settings.items() if name != "chunk_size"}
    for shape in ((2, 1, 3), (1, 1, 3), (2, 1, 1), (1, 1, 1)):
        m = mask(*shape, H, W)
        each = m.expand(2, 1, 3, H, W).transpose(1, 2).flatten(0, 1)
        loss.set_style(styles()[0])
        wanted = masked.perceptual_loss(frames, targets, styles()[:1], each, [each], clips=2, **names)
        assert_alike(loss(x, y, mask=m), wanted["content"] + wanted["style"], x, y)
    loss.set_style(styles(), weights=[1, 3], masks=masks())
    guides = [masked.area(guide.double(), H, W) * each for guide in masks()]
    wanted = masked.perceptual_loss(frames, targets, styles(), each, guides, SHARES, clips=2, **names)
    found, terms = loss(x, y, mask=m, return_terms=True)
    assert_alike(found, wanted["content"] + wanted["style"], x, y)
    for term, value in wanted.items():
        torch.testing.assert_close(terms[term], value.detach())


def test_grams_over_clips_in_tiles(library: None) -> None:
    x, y = (images(3, seed, 99).unsqueeze(0).transpose(1, 2).requires_grad_() for seed in (0, 1))
    loss, results = plain(gram_over="clip", chunk_size=2), []
    loss.set_style(styles(), weights=[1, 3], masks=masks())
    for tile_size in (None, 64):
        loss.tile_size = tile_size
        value = loss(x, y, mask=mask(1, 1, 3, 99, 102))
        results.append([value, *torch.autograd.grad(value.sum(), (x, y))])
    for a, b in zip(*results, strict=True):
        assert_close_by_scale(a, b)


WRONG: dict[str, tuple[Callable[[list[Tensor]], object], str]] = {
    "a tensor": (lambda m: m[0], "masks: expected a list of 2, one for each style image; got Tensor"),
    "count": (lambda m: m[:1], "masks: expected a list of 2, one for each style image; got 1"),
    "batch": (lambda m: [m[0], m[0].repeat(2, 1, 1, 1)], "masks[1]: expected shape (1, 1, H, W), got (2, 1, 23, 26)"),
    "axes": (lambda m: [m[0][0, 0], m[1]], "masks[0]: expected shape (1, 1, H, W), got (23, 26)"),
    "dtype": (lambda m: [m[0].int(), m[1]], "masks[0]: expected floating-point numbers in [0, 1], or bool"),
    "numbers": (lambda m: [2 * torch.ones(1, 1, 3, 3), m[1]], "masks[0]: expected numbers in [0, 1], got 2 to 2"),
    "pixels": (lambda m: [m[0][..., :0], m[1]], "masks[0]: expected shape (1, 1, H, W), got (1, 1, 23, 0)"),
    "kind": (lambda m: [None, m[1]], "masks[0]: expected a tensor of numbers in [0, 1], got NoneType"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_masks_that_are_refused(wrong: str, device: str) -> None:
    change, sentence = WRONG[wrong]
    loss = make()
    if wrong == "numbers" and device != "cpu":
        return
    assert sentence in refused(lambda: loss.set_style(styles(), masks=change(masks())))

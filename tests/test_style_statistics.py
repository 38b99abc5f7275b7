"""Styles compared by means and deviations of channels: both engines against the formula written out."""

from __future__ import annotations

import io

import pytest
import torch
from maps import assert_close_by_scale
from perceptual import STYLE, features, images, make
from torch import Tensor, nn

import perceptual_ops as po

STATISTICS = ["mean_std", "both"]
ENGINES = [{"engine": "lean"}, {"engine": "autograd"}, {"backend": "reference"}]


def errors(distance: str, a: Tensor, b: Tensor) -> Tensor:  # (N, ...) -> (N)
    e = (a - b).flatten(1)
    values = {
        "mse": e.square(),
        "sse": e.square(),
        "l1": e.abs(),
        "huber": torch.where(e.abs() < 1, e * e / 2, e.abs() - 0.5),
    }
    return values[distance].sum(1) if distance == "sse" else values[distance].mean(1)


def layer_value(kind: str, distance: str, x: Tensor, y: Tensor) -> Tensor:  # (N, C, H, W), (1, C, H', W') -> (N)
    """The distance of two maps of a layer."""
    value = torch.zeros_like(x[:, 0, 0, 0])
    if kind in ("mean_std", "both"):
        for of in (lambda z: z.mean((2, 3)), lambda z: (z.var((2, 3), correction=0) + 1e-5).sqrt()):
            value = value + errors(distance, of(x), of(y))
    if kind in ("gram", "both"):
        grams = [z.flatten(2) @ z.flatten(2).mT / z[0].numel() for z in (x, y)]
        value = value + errors(distance, *grams)
    return value


def by_hand(kind: str, distance: str, x: Tensor, style: Tensor) -> Tensor:  # (S, N)
    layers = list(STYLE)
    pairs = zip(features(x, layers), features(style, layers), strict=True)
    return torch.stack([layer_value(kind, distance, *pair) for pair in pairs])


def style_loss(kind: str, backend: str = "auto", device: str = "cpu", **settings: object) -> po.PerceptualLoss:
    made = {"content_layers": None, "style_weight": 10.0, "reduction": "none", "style_statistics": kind}
    return make(backend, device, **made | settings)


@pytest.mark.parametrize("settings", ENGINES, ids=str)
@pytest.mark.parametrize("distance", ["mse", "l1", "huber", "sse"])
@pytest.mark.parametrize("kind", STATISTICS)
@pytest.mark.usefixtures("library")
def test_values_terms_and_gradient(kind: str, distance: str, settings: dict[str, str]) -> None:
    loss = style_loss(kind, style_distance=distance, **settings).double()
    x, style = images(3).double().requires_grad_(), images(1, 30, seed=2).double()
    upstream = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    value, terms = loss(x, style=style, return_terms=True)
    per_layer = by_hand(kind, distance, x, style)
    weights = torch.tensor(list(STYLE.values()), dtype=torch.float64)
    expected = 10 * (weights[:, None] * per_layer).sum(0)
    assert_close_by_scale(value, expected, 1e-10)
    assert_close_by_scale(terms["style"], expected, 1e-10)
    for layer, own in zip(STYLE, per_layer, strict=True):
        assert_close_by_scale(terms[f"style/{layer}"], own, 1e-10)
    gradients = [torch.autograd.grad(z, x, upstream)[0] for z in (value, expected)]
    assert_close_by_scale(*gradients, 1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("kind", STATISTICS)
@pytest.mark.usefixtures("library")
def test_narrow_maps(kind: str, dtype: torch.dtype) -> None:
    """Gradients that an fp16 map could not hold without a scale, beside content on the same layer."""
    settings = {"content_layers": {"relu2_1": 1e-8}, "style_weight": 1e-7}
    narrow = style_loss(kind, compute_dtype=dtype, **settings), torch.float32
    exact = style_loss(kind, **settings).double(), torch.float64
    found = []
    for loss, own in (narrow, exact):
        x, target, style = (z.to(own) for z in (images(2), images(2, seed=1), images(1, 30, seed=2)))
        value = loss(x.requires_grad_(), target, style)
        found.append((value.detach().double(), torch.autograd.grad(value.sum(), x)[0].double()))
    tolerance = {torch.float16: 2e-2, torch.bfloat16: 1e-1, torch.float32: 1e-5}[dtype]
    for mine, truth in zip(*found, strict=True):  # as a whole, since rounding turns some maxima and ReLUs
        assert truth.norm() > 0
        assert (mine - truth).norm() / truth.norm() < tolerance


@pytest.mark.parametrize("kind", STATISTICS)
@pytest.mark.parametrize(
    "settings", [{"normalize_features": "channel"}, {"chunk_size": 1}, {"input_size": 20}], ids=str
)
@pytest.mark.usefixtures("library")
def test_engines_agree(kind: str, settings: dict[str, object]) -> None:
    results = []
    for engine in ("lean", "autograd"):
        loss = style_loss(kind, engine=engine, tv_weight=0.1, **settings).double()
        loss.set_style(images(3, 30, seed=2).double())
        x = images(3).double().requires_grad_()
        value = loss(x)
        results.append((value.detach(), torch.autograd.grad(value.sum(), x)[0]))
    for mine, theirs in zip(*results, strict=True):
        assert_close_by_scale(mine, theirs, 1e-10)


@pytest.mark.parametrize("kind", STATISTICS)
def test_kept_styles(kind: str, backend: str, device: str) -> None:
    """A kept style gives what the image gives; two of them are the mean of their statistics."""
    loss = style_loss(kind, backend, device)
    x, (a, b) = images(2, device=device), (images(1, 30, seed=seed, device=device) for seed in (2, 3))
    loss.set_style(a)
    given = loss(x, style=a)
    torch.testing.assert_close(loss(x), given)
    loss.set_style([a, b], [1.0, 3.0])
    channels = [kept.shape[1:] for kept in loss._style_targets(x, None)]
    assert channels == [(2 + (64 if kind == "both" else 0), 64), (2 + (128 if kind == "both" else 0), 128)]
    blended = loss._style_targets(x, None)
    for mean, one, other in zip(blended, loss._style_targets(x, a), loss._style_targets(x, b), strict=True):
        torch.testing.assert_close(mean, 0.25 * one + 0.75 * other)
    assert not torch.equal(loss(x), given)


@pytest.mark.parametrize("settings", [{}, {"chunk_size": 1}, {"engine": "autograd", "chunk_size": 2}], ids=str)
@pytest.mark.parametrize("kind", STATISTICS)
@pytest.mark.usefixtures("library")
def test_clips_of_one_style(kind: str, settings: dict[str, object]) -> None:
    """gram_over="clip": statistics over all pixels of all frames, of the style clip too."""
    loss = style_loss(kind, gram_over="clip", **settings).double()
    frames, others = images(6).double(), images(2, 30, seed=2).double()
    clips = frames.unflatten(0, (2, 3)).transpose(1, 2).clone().requires_grad_()
    value = loss(clips, style=others[None].transpose(1, 2))
    pairs = zip(features(clips.transpose(1, 2).flatten(0, 1), list(STYLE)), features(others, list(STYLE)), strict=True)
    expected = torch.zeros(2, dtype=torch.float64)
    for (x, y), weight in zip(pairs, STYLE.values(), strict=True):
        maps = [z.unflatten(0, (count, -1)).transpose(1, 2).flatten(2, 3) for z, count in ((x, 2), (y, 1))]
        expected = expected + 10 * weight * layer_value(kind, "mse", *maps)
    assert_close_by_scale(value, expected, 1e-10)
    assert_close_by_scale(*(torch.autograd.grad(z.sum(), clips)[0] for z in (value, expected)), 1e-9)


@pytest.mark.usefixtures("library")
def test_masks_are_for_grams() -> None:
    loss, x, style = style_loss("both"), images(2), images(1, seed=2)
    mask = torch.ones(1, 1, *x.shape[2:])
    with pytest.raises(ValueError, match=r"mask: expected None.* style_statistics=.gram., which is 'both'"):
        loss(x, style=style, mask=mask)
    with pytest.raises(ValueError, match=r"masks: expected None for a style of means and .* which is 'both', first"):
        loss.set_style([style, style], masks=[mask, mask])


@pytest.mark.usefixtures("library")
def test_own_module_and_tokens() -> None:
    """A module of vectors: deviations of one pixel are those of the eps alone, and have no gradient."""
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    loss = po.PerceptualLoss(
        module, content_layers=None, style_layers=["1", "3"], style_statistics="mean_std", reduction="none"
    ).double()  # fmt: skip
    x, style = images(2).double().requires_grad_(), images(1, seed=2).double()
    module = module.double()
    maps = [[module[:2](z), module(z)[..., None, None]] for z in (x, style)]
    expected = sum(layer_value("mean_std", "mse", *pair) for pair in zip(*maps, strict=True))
    value = loss(x, style=style)
    assert_close_by_scale(value, expected, 1e-10)
    assert_close_by_scale(*(torch.autograd.grad(z.sum(), x)[0] for z in (value, expected)), 1e-9)


@pytest.mark.parametrize("kind", STATISTICS)
@pytest.mark.usefixtures("library")
def test_constant_images_have_finite_gradients(kind: str) -> None:
    loss = style_loss(kind, engine="lean")
    x = torch.full((2, 3, 24, 24), 0.5, requires_grad=True)
    value = loss(x, style=images(1, seed=2))
    assert torch.autograd.grad(value.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("kind", STATISTICS)
@pytest.mark.usefixtures("library")
def test_same_bits_and_samples_of_their_own(kind: str) -> None:
    loss = style_loss(kind)
    loss.set_style(images(1, seed=2))
    x = images(3).requires_grad_()
    first, again = (torch.autograd.grad(loss(x).sum(), x)[0] for _ in range(2))
    assert torch.equal(first, again)
    spoilt = x.detach().clone()
    spoilt[1, 0, 3, 4] = torch.nan
    spoilt.requires_grad_()
    value = loss(spoilt)
    assert value.isfinite().tolist() == [True, False, True]
    gradient = torch.autograd.grad(value.sum(), spoilt)[0]
    assert torch.equal(gradient[[0, 2]], first[[0, 2]])
    assert loss(x[:0]).shape == (0,)


@pytest.mark.parametrize("kind", STATISTICS)
@pytest.mark.usefixtures("library")
def test_compiled_and_exported(kind: str) -> None:
    loss = style_loss(kind)
    loss.set_style(images(1, seed=2))
    x = images(2).requires_grad_()
    expected = loss(x)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(*(torch.autograd.grad(z.sum(), x)[0] for z in (compiled, expected)))
    saved = io.BytesIO()
    torch.export.save(torch.export.export(loss, (x,)), saved)
    saved.seek(0)
    torch.testing.assert_close(torch.export.load(saved).module()(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("library")
def test_second_derivative() -> None:
    loss = style_loss("both", engine="autograd").double()
    loss.set_style(images(1, seed=2).double())
    x = images(1, 12).double().requires_grad_()
    results = []
    for value in (
        loss(x),
        10
        * (torch.tensor(list(STYLE.values()))[:, None] * by_hand("both", "mse", x, images(1, seed=2).double())).sum(0),
    ):
        (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), x)[0])
    assert_close_by_scale(*results, 1e-8)

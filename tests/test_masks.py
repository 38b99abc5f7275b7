"""Masks of the pixels that a loss looks at, against plain formulas in fp64."""

from __future__ import annotations

import masked
import perceptual
import pytest
import torch
from masked import assert_alike, mask
from metrics import make as make_metric
from metrics import pictures
from placement import placed
from test_clips import engines, gradients, make
from torch import Tensor

import perceptual_ops as po

pytestmark = pytest.mark.usefixtures("on_device")

SIZE = 23  # by 26: odd, and what is pooled is not a divisor


def images(batch: int, seed: int = 0, size: int = SIZE) -> Tensor:
    return placed(perceptual.images(batch, size, seed).double())


def ready(engine: str = "lean", **settings: object) -> po.PerceptualLoss:
    """With a kept style."""
    loss = make(engine, **{"tv_weight": 0.0, "style_weight": masked.STYLE_WEIGHT, **settings})
    if loss.style_layers:
        loss.set_style(images(1, 7, 20))
    return loss


SETTINGS: dict[str, dict[str, str]] = {
    "mse": {},
    "l1, hw": {"content_distance": "l1", "gram_normalize": "hw"},
    "charbonnier and huber": {"content_distance": "charbonnier", "style_distance": "huber"},
    "huber and l1": {"content_distance": "huber", "style_distance": "l1"},
    "sse, none": {"content_distance": "sse", "gram_normalize": "none"},
    "cosine": {"content_distance": "cosine"},
    "unit features": {"normalize_features": "channel"},
}


@engines
@pytest.mark.parametrize("name", SETTINGS)
def test_content_and_style_of_masked_images(name: str, engine: str) -> None:
    x, y, style = images(2).requires_grad_(), images(2, 1).requires_grad_(), images(1, 7, 20)
    loss = ready(engine, tv_weight=0.01, **SETTINGS[name])
    for m in (mask(2, 1, SIZE, SIZE + 3), mask(1, 1, SIZE, SIZE + 3).round()):
        found, terms = loss(x, y, return_terms=True, mask=m)
        wanted = masked.perceptual_loss(x, y, [style], m, [m], **SETTINGS[name])
        variation = 0.01 * po.total_variation(x, reduction="none")  # of the whole image
        assert_alike(found, wanted["content"] + wanted["style"] + variation, x, y)
        for term, value in wanted.items():
            torch.testing.assert_close(terms[term], value.detach())
        with torch.no_grad():
            torch.testing.assert_close(loss(x, y, mask=m), found)


@engines
@pytest.mark.parametrize("name", ["alex", "squeeze"])
def test_lpips_of_masked_images(name: str, engine: str) -> None:
    metric = make_metric(name, engine=engine).double()
    x, y = (pictures(2, 37, 43, seed).double().requires_grad_() for seed in (0, 1))
    for m in (mask(2, 1, 37, 43), mask(1, 1, 37, 43).round()):
        wanted = masked.lpips(metric, x, y, m)
        assert_alike(metric(x, y, mask=m), sum(wanted), x, y)
        total, layers = metric(x, y, mask=m, return_layers=True)
        torch.testing.assert_close([total, *layers], [sum(wanted), *wanted])
    torch.testing.assert_close(metric(x[:1], y, mask=m), sum(masked.lpips(metric, x[:1], y, m)))
    torch.testing.assert_close(metric(x, y[:1], mask=m), sum(masked.lpips(metric, x, y[:1], m)))


@engines
def test_a_mask_that_is_the_same_everywhere_changes_nothing(engine: str) -> None:
    x, y = images(2, size=33).requires_grad_(), images(2, 1, 33).requires_grad_()
    cases = [(ready(engine, **SETTINGS[name]), 1e-12) for name in ("mse", "charbonnier and huber", "cosine")]
    for loss, tolerance in [*cases, (make_metric("alex", engine=engine).double(), 1e-12)]:
        plain = loss(x, y)
        expected = gradients(plain, x, y)
        for m in (torch.ones_like(x[:1, :1]), torch.full_like(x[:, :1], 0.3), torch.ones_like(x[:, :1]).bool()):
            found = loss(x, y, mask=m)
            torch.testing.assert_close(found, plain, rtol=tolerance, atol=0)
            for a, b in zip(gradients(found, x, y), expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=tolerance * b.abs().max().item())
    sums = ready(engine, **SETTINGS["sse, none"], style_layers=None)
    torch.testing.assert_close(sums(x, y, mask=torch.full_like(x[:1, :1], 0.5)), 0.5 * sums(x, y))


@engines
def test_masks_of_every_dtype(engine: str) -> None:
    loss, x, y = ready(engine), images(2), images(2, 1)
    m = mask(2, 1, SIZE, SIZE + 3).round()
    expected = loss(x, y, mask=m)
    for dtype in (torch.bool, torch.float16, torch.bfloat16, torch.float32):
        torch.testing.assert_close(loss(x, y, mask=m.to(dtype)), expected, rtol=1e-12, atol=0)


@engines
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_gradient_leaves_the_region(dtype: torch.dtype, engine: str) -> None:
    """What layers see of the region has a gradient; all else has exactly none."""
    x, y = images(1, size=40).to(dtype).requires_grad_(), images(1, 1, 40).to(dtype)
    region = torch.zeros_like(x[:, :1])
    region[:, :, 9:14, 21:25] = 0.7
    reached = masked.reached(region)
    loss = ready(engine).to(dtype)
    (gradient,) = torch.autograd.grad(loss(x, y, mask=region), x)
    assert gradient.ne(0).any(1, keepdim=True).equal(reached)


@engines
def test_empty_masks_give_nothing(engine: str) -> None:
    m = mask(3, 1, 33, 36)
    m[1] = 0
    for loss in (
        ready(engine, chunk_size=2),
        ready(engine, **SETTINGS["sse, none"]),
        make_metric("alex", engine=engine).double(),
    ):
        x, y = images(3, size=33).requires_grad_(), images(3, 1, 33).requires_grad_()
        found = loss(x, y, mask=m)
        others = [0, 2]
        torch.testing.assert_close(found[others], loss(x[others], y[others], mask=m[others]))
        assert found[1] == 0 and found[others].gt(0).all()
        for gradient in gradients(found, x, y):
            assert not gradient[1].any() and gradient.isfinite().all() and gradient[others].any()
        assert not loss(x, y, mask=torch.zeros_like(m[:1])).any()


@engines
def test_kept_targets_reductions_and_weights(engine: str) -> None:
    x, y, m = images(3), images(3, 1), mask(3, 1, SIZE, SIZE + 3)
    loss = ready(engine)
    values = loss(x, y, mask=m)
    loss.set_content(y)
    torch.testing.assert_close(loss(x, mask=m), values)
    torch.testing.assert_close(loss(x, y, mask=m, sample_weight=[2, 0, -1]), values * values.new_tensor([2, 0, -1]))
    for reduction in ("mean", "sum"):
        loss.reduction = reduction
        torch.testing.assert_close(loss(x, mask=m), getattr(values, reduction)())
    loss.reduction = "none"
    one_for_all = torch.cat([loss(z[None], y[:1], mask=n[None]) for z, n in zip(x, m, strict=True)])
    torch.testing.assert_close(loss(x, y[:1], mask=m), one_for_all)
    for chunk_size in (1, 2):
        loss.chunk_size = chunk_size
        torch.testing.assert_close(loss(x, y, mask=m), values)


@engines
def test_batches_of_none(engine: str) -> None:
    for loss in (ready(engine), make_metric("alex", engine=engine).double()):
        x, y = images(0, size=33), images(0, 1, 33)
        for m in (mask(0, 1, 33, 36), mask(1, 1, 33, 36)):
            assert loss(x, y, mask=m).shape == (0,)


@engines
def test_masks_of_clips(engine: str) -> None:
    x, y = (images(6, seed, 33).unflatten(0, (2, 3)).transpose(1, 2) for seed in (0, 1))
    for loss in (ready(engine), make_metric("alex", engine=engine).double()):
        for shape in ((2, 1, 3), (1, 1, 3), (2, 1, 1), (1, 1, 1)):
            m = mask(*shape, 33, 36)
            whole = m.expand(2, 1, 3, 33, 36)
            by_frame = [loss(x[:, :, t], y[:, :, t], mask=whole[:, :, t]) for t in range(3)]
            wanted = torch.stack(by_frame, 1)
            torch.testing.assert_close(loss(x, y, mask=m, frames=True), wanted)
            torch.testing.assert_close(loss(x, y, mask=m), wanted.mean(1))


@engines
def test_masks_of_lists(engine: str) -> None:
    sizes = (33, 35, 33)
    x, y = ([images(1, seed + i, n) for i, n in enumerate(sizes)] for seed in (0, 5))
    m = [mask(1, 1, n, n + 3, seed=i) for i, n in enumerate(sizes)]
    for loss in (ready(engine), make_metric("alex", engine=engine).double()):
        wanted = torch.cat([loss(*three[:2], mask=three[2]) for three in zip(x, y, m, strict=True)])
        torch.testing.assert_close(loss(x, y, mask=m), wanted)
        torch.testing.assert_close(loss([z[0] for z in x], y, mask=[n[0] for n in m]), wanted)
        weighted = loss(x, y, mask=m, sample_weight=[0, 1, 2])
        torch.testing.assert_close(weighted, wanted * wanted.new_tensor([0, 1, 2]))
    clips = [z[:, :, None].expand(-1, -1, t, -1, -1) for z, t in zip(x, (2, 1, 2), strict=True)]
    of_clips = [m[0][:, :, None].expand(-1, -1, 2, -1, -1), m[1][:, :, None], m[2][:, :, None]]
    torch.testing.assert_close(loss(clips, clips[::-1][:1] + clips[1:], mask=of_clips)[1:], loss(clips, clips)[1:])


@engines
@pytest.mark.parametrize("mode", ["bilinear", "center_crop", "random_crop"])
def test_masks_go_with_images_to_their_size(mode: str, engine: str) -> None:
    x, y, m = images(2).requires_grad_(), images(2, 1).requires_grad_(), mask(2, 1, SIZE, SIZE + 3)
    loss = ready(engine, input_size=(16, 19), resize_mode=mode)
    plain = ready(engine)
    plain._kept = {**plain._kept, "style": loss._kept["style"]}
    torch.manual_seed(5)
    found = loss(x, y, mask=m)
    torch.manual_seed(5)
    size = loss._size_of_call(x)
    own = masked.area(m, 16, 19) if mode == "bilinear" else size.entered(m)
    assert_alike(found, plain(size.entered(x), size.entered(y), mask=own), x, y)

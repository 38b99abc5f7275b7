"""Masks in tiles, in 16 bits, under compilers and autograd's checks, and masks that are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import masked
import pytest
import torch
from maps import assert_close_by_scale
from masked import mask
from metrics import make as make_metric
from metrics import pictures
from placement import placed
from test_clips import engines, refused
from test_gradient_of import TILE, Reader, loss_of, picture
from test_masks import images, ready
from test_module_trunk import Residual
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import perceptual_ops as po
from perceptual_ops.engine import batching, tiled_pair

pytestmark = pytest.mark.usefixtures("on_device")


def value_and_gradients(loss: nn.Module, *images: Tensor, **keywords: Any) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in images]
    value = loss(*leaves, **keywords)
    upstream = torch.arange(1.0, value.numel() + 1).to(value).view(value.shape)
    return [value.detach(), *torch.autograd.grad((value * upstream).sum(), leaves)]


@pytest.mark.parametrize("name", ["mse", "sse", "cosine", "huber", "lpips", "lpips vgg16"])
def test_tiles_give_those_of_the_whole(name: str, library: None) -> None:
    settings: dict[str, Any] = {"chunk_size": 1}
    if name.startswith("lpips"):
        loss = make_metric(name.removeprefix("lpips ") if " " in name else "alex", **settings).double()
    else:
        loss = ready(**settings, content_distance=name, tv_weight=0.01)
    x, y = (images(2, seed, 99) for seed in (0, 1))
    m = mask(2, 1, 99, 102)
    m[1, :, :60] = 0  # of some tiles nothing, some
    whole = value_and_gradients(loss, x, y, mask=m)
    loss.tile_size = 64
    tiled = value_and_gradients(loss, x, y, mask=m)
    for found, expected in zip(tiled, whole, strict=True):
        assert expected.any()
        assert_close_by_scale(found, expected)
    with torch.no_grad():
        assert_close_by_scale(loss(x, y, mask=m), whole[0])


def test_tiles_of_the_first_layers_of_lpips(library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those within tiles through all layers."""
    metric = make_metric("vgg16").double()
    (x, y), m = (pictures(1, 100, 83, seed).double() for seed in (0, 1)), mask(1, 1, 100, 83)
    whole = value_and_gradients(metric, x, y, mask=m)
    for device in ("CPU", "GPU"):
        monkeypatch.setattr(batching, f"{device}_PIXELS", 24 * 24)
    for tile_size in (None, 48):
        metric.tile_size = tile_size
        with mock.patch.object(tiled_pair, "tiles_of", wraps=tiled_pair.tiles_of) as cut:
            results = value_and_gradients(metric, x, y, mask=m)
        assert cut.call_count == (1 if tile_size is None else 2)
        for found, expected in zip(results, whole, strict=True):
            assert_close_by_scale(found, expected)


@pytest.mark.parametrize("name", ["perceptual", "lpips"])
@pytest.mark.parametrize("kind", ["tensor", "array", "reader", "bool"])
def test_gradient_of_masked_pictures(name: str, kind: str, library: None) -> None:
    loss, output, target, m = loss_of(name), picture(1), picture(2), mask(1, 1, 99, 71).cpu()
    m = m.round() if kind == "bool" else m
    given = {"tensor": m, "array": m[0].numpy(), "reader": Reader(m[0]), "bool": m[0].bool().numpy()}[kind]
    value, gradient = po.gradient_of(loss, output, target, mask=given)
    loss.tile_size = None
    expected = value_and_gradients(loss, output[None], target[None], mask=m)
    loss.tile_size = TILE
    assert_close_by_scale(value, expected[0])
    assert_close_by_scale(gradient, expected[1])


def test_gradients_of_masks_that_are_refused(library: None) -> None:
    output, target = picture(1), picture(2)
    loss = loss_of("perceptual")
    loss.style_statistics = "mean_std"
    loss.set_style(picture(3)[None])
    sentence = "mask: expected None, and no masks of set_style, for a style of means and deviations"
    assert sentence in refused(lambda: po.gradient_of(loss, output, target, mask=torch.ones(1, 99, 71)))
    for name, given, sentence in (
        ("lpips", torch.rand(1, 99, 70), "mask: expected shape (1, 99, 71) for that output, got (1, 99, 70)"),
        ("lpips", 2 * torch.ones(1, 99, 71), "mask: expected numbers in [0, 1], got 2 to 2"),
        ("dists", torch.ones(1, 99, 71), "mask: expected None for a DISTS, which has none; got a mask"),
    ):
        assert sentence in refused(
            lambda name=name, given=given: po.gradient_of(loss_of(name), output, target, mask=given)
        )


@engines
def test_gradcheck(engine: str) -> None:
    x, y, m = images(1, size=6).requires_grad_(), images(1, 1, 6).requires_grad_(), mask(1, 1, 6, 9)
    loss = ready(engine)
    assert torch.autograd.gradcheck(lambda x, y: loss(x, y, mask=m), (x, y), fast_mode=True)
    if engine == "autograd":
        assert torch.autograd.gradgradcheck(lambda x: loss(x, y, mask=m), (x,), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(dtype: torch.dtype, library: None) -> None:
    """A small region, whose numbers are large and whose surroundings are 0."""
    m = torch.zeros_like(mask(2, 1, 33, 36))
    m[0, :, 4:9, 20:26], m[1] = 1.0, mask(1, 1, 33, 36)[0]
    x, y = images(2, size=33), images(2, 1, 33)
    for make in (ready, lambda engine: make_metric("alex", engine=engine).double()):
        exact, errors = value_and_gradients(make("lean"), x, y, mask=m), {}
        for engine in ("autograd", "lean"):
            loss = make(engine).float()
            loss.compute_dtype = dtype
            found = value_and_gradients(loss, x.float(), y.float(), mask=m)
            errors[engine] = [((a - b).norm() / b.norm()).item() for a, b in zip(found, exact, strict=True)]
        for own, plain in zip(errors["lean"], errors["autograd"], strict=True):
            assert own <= 1.2 * plain


@pytest.mark.parametrize("name", ["perceptual", "lpips"])
@engines
def test_compiled_without_a_break(name: str, engine: str, library: None) -> None:
    loss = ready(engine).float() if name == "perceptual" else make_metric("alex", engine=engine)
    body, counter = placed(nn.Conv2d(3, 3, 1)), CompileCounterWithBackend("aot_eager")

    def step(x: Tensor, m: Tensor) -> Tensor:
        return loss(body(x), x, mask=m).sum()

    compiled = torch.compile(step, fullgraph=True, backend=counter)
    x = images(2, size=33).float()
    for m in (mask(2, 1, 33, 36, seed=i) for i in range(3)):
        results = [
            (value, *torch.autograd.grad(value, list(body.parameters())))
            for value in (step(x, m.float()), compiled(x, m.float()))
        ]
        torch.testing.assert_close(results[1], results[0])
    assert counter.frame_count <= 2


@pytest.mark.parametrize("name", ["perceptual", "lpips"])
def test_programs_have_masks(name: str) -> None:
    loss = ready().float() if name == "perceptual" else make_metric("alex")
    x, y, m = images(2, size=33).float(), images(2, 1, 33).float(), mask(2, 1, 33, 36).float()
    batch = {0: torch.export.Dim("batch", min=2)}
    shapes = {"output": batch, "target": batch, "mask": batch}
    program = torch.export.export(loss, (x, y), {"mask": m}, dynamic_shapes=shapes).module()
    x, y, m = (z.repeat(2, 1, 1, 1)[:3].flip(0) for z in (x, y, m))
    torch.testing.assert_close(program(x, y, mask=m), loss(x, y, mask=m), rtol=1e-4, atol=1e-6)


@engines
def test_modules_of_your_own(engine: str) -> None:
    """Their maps have masks, tokens have not."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = Residual()

    class Tokens(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.unfold(x, 4, stride=4).mT

    x, y, m = images(2), images(2, 1), mask(2, 1, 23, 26)
    loss = placed(po.PerceptualLoss(network, content_layers=["mix"], engine=engine, reduction="none").double())
    found = loss(x, y, mask=m)
    features = loss.frozen_network.features
    torch.testing.assert_close(found, masked.content(features(x)["mix"], features(y)["mix"], m))
    tokens = po.PerceptualLoss(Tokens(), content_layers=["output"], engine=engine, reduction="none")
    sentence = "mask: expected layers whose features are maps of the image, (N, C, H, W), got 30 x 1 pixels of output"
    assert sentence in refused(lambda: tokens(x.float(), y.float(), mask=m))


WRONG: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "no tensor": (lambda m: 0.5, "mask: expected a tensor of numbers in [0, 1], got float"),
    "8 bits": (lambda m: m.byte(), "or bool, got torch.uint8; convert 8-bit masks by mask.float() / 255"),
    "size": (lambda m: m[..., 1:], "mask: expected shape (2 or 1, 1, 33, 36) for that output, got (2, 1, 33, 35)"),
    "batch": (lambda m: m.repeat(2, 1, 1, 1), "mask: expected shape (2 or 1, 1, 33, 36)"),
    "channels": (lambda m: m.expand(2, 3, -1, -1), "mask: expected shape (2 or 1, 1, 33, 36)"),
    "axes": (lambda m: m[:, 0], "mask: expected shape (2 or 1, 1, 33, 36) for that output, got (2, 33, 36)"),
    "a list": (lambda m: list(m), "mask: expected a batch, as output is, got a list"),
    "a gradient": (lambda m: m.requires_grad_(), "mask: expected no requires_grad, since no gradient flows to it"),
    "a device": (lambda m: m.to("meta"), "mask: expected a mask on "),
}
NUMBERS: dict[str, tuple[float, str]] = {
    "above 1": (1.5, "mask: expected numbers in [0, 1], got 0"),
    "below 0": (-0.25, "mask: expected numbers in [0, 1], got -0.25 to "),
    "NaN": (torch.nan, "mask: expected numbers in [0, 1], got NaN among them"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_masks_that_are_refused(wrong: str) -> None:
    change, sentence = WRONG[wrong]
    x, y = images(2, size=33), images(2, 1, 33)
    for loss in (ready(), make_metric("alex").double()):
        given = change(mask(2, 1, 33, 36))
        assert sentence in refused(lambda loss=loss, given=given: loss(x, y, mask=given))


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_that_are_refused(number: str, device: str) -> None:
    """Those of a GPU are not looked at; a NaN is none in silence."""
    value, sentence = NUMBERS[number]
    m = mask(2, 1, 33, 36)
    m[0, 0, 3, 4], m[0, 0, 0, 0] = value, 0
    loss, x, y = ready(), images(2, size=33), images(2, 1, 33)
    if device == "cpu":
        assert sentence in refused(lambda: loss(x, y, mask=m))
    elif number == "NaN":
        assert loss(x, y, mask=m).isnan().tolist() == [True, False]


def test_masks_where_there_are_none() -> None:
    x, y, m = images(2, size=33), images(2, 1, 33), mask(2, 1, 33, 36)
    spatial = make_metric("alex", spatial=True).double()
    assert "mask: expected None with spatial=True" in refused(lambda: spatial(x, y, mask=m))
    clips = x[:, :, None].expand(-1, -1, 3, -1, -1)
    sentence = "mask: expected shape (2 or 1, 1, 3 or 1, 33, 36) for that output, got (2, 1, 2, 33, 36)"
    assert sentence in refused(lambda: ready()(clips, clips, mask=m[:, :, None].expand(-1, -1, 2, -1, -1)))
    own = po.PerceptualLoss(nn.Conv3d(3, 4, 1), content_layers=["output"])
    sentence = "mask: expected None for clips that a module of your own takes"
    assert sentence in refused(lambda: own(clips.float(), clips.float(), mask=m[:, :, None]))

"""`gram_over="clip"`: one Gram over all frames of a clip, by chunks and tiles, against the plain formula."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import placement
import pytest
import torch
from placement import placed
from test_clips import check, clips, engines, gradients, make, refused
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import perceptual_ops as po
from bench.memory import allocated_peak
from perceptual_ops.networks import IMAGENET_MEAN, IMAGENET_STD
from perceptual_ops.reference import unit_features

pytestmark = pytest.mark.usefixtures("on_device")


def of_clips(engine: str = "lean", **settings: Any) -> po.PerceptualLoss:
    return make(engine, gram_over="clip", **settings)


def features(loss: po.PerceptualLoss, x: Tensor, layer: str) -> Tensor:  # (N, 3, T, H, W) -> (N, C, T, H', W')
    frames = x.transpose(1, 2).flatten(0, 1)
    mean, std = (torch.tensor(z, dtype=x.dtype).view(3, 1, 1).to(x) for z in (IMAGENET_MEAN, IMAGENET_STD))
    found = loss.frozen_network.features((frames - mean) / std, [layer])[layer]
    if loss.normalize_features == "channel":
        found = unit_features(found, 1e-10, False)
    return found.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


def gram(loss: po.PerceptualLoss, x: Tensor, layer: str) -> Tensor:  # -> (N, C, C)
    maps = features(loss, x, layer)
    flat = maps.flatten(2)
    sizes = {"none": 1, "hw": flat.shape[2], "chw": flat.shape[1] * flat.shape[2]}
    return flat @ flat.mT / sizes[loss.gram_normalize]


def plain(loss: po.PerceptualLoss, x: Tensor, y: Tensor, style: Tensor) -> Tensor:  # -> (N)
    """The formula in plain torch, by "mse", or "sse" for content."""
    total = torch.zeros(x.shape[0], dtype=x.dtype, device=x.device)
    for layer, weight in zip(loss.content_layers, loss.content_weights, strict=True):
        error = (features(loss, x, layer) - features(loss, y, layer)).square()
        of_frames = error.sum((1, 3, 4)) if loss.content_distance == "sse" else error.mean((1, 3, 4))
        total = total + weight * of_frames.mean(1)
    for layer, weight in zip(loss.style_layers, loss.style_weights, strict=True):
        total = total + weight * (gram(loss, x, layer) - gram(loss, style, layer)).square().mean((1, 2))
    rows, columns = x.diff(dim=3).square().sum((1, 3, 4)), x.diff(dim=4).square().sum((1, 3, 4))
    return total + loss.tv_weight * (rows + columns).mean(1)


@engines
@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("chunk_size", [None, 1, 2, 5, 12])
def test_the_formula(engine: str, frames: int, chunk_size: int | None) -> None:
    """Of one chunk, of many of which the last is smaller, and of chunks of several clips."""
    loss = of_clips(engine, chunk_size=chunk_size)
    x, y, style = clips(3, frames, size=13), clips(3, frames, 1, size=13), clips(1, 4, 2, size=17)
    loss.set_style(style)
    check(loss, lambda x, y: plain(loss, x, y, style), x, y)


@pytest.mark.parametrize(
    "settings",
    [
        {"gram_normalize": "none", "style_weight": 0.01},
        {"gram_normalize": "hw", "style_weight": 1e4},
        {"content_distance": "sse"},
        {"content_layers": None, "tv_weight": 0.0},
        {"content_layers": None},
        {"normalize_features": "channel", "style_weight": 1e9},
    ],
    ids=str,
)
@pytest.mark.parametrize("chunk_size", [2, 12])
@engines
def test_settings(engine: str, chunk_size: int, settings: dict[str, Any]) -> None:
    loss = of_clips(engine, chunk_size=chunk_size, **settings)
    x, y, style = clips(2, 3), clips(1, 3, 1), clips(2, 3, 2)
    loss.set_style(style)
    if not loss.content_layers:
        check(loss, lambda x: plain(loss, x, y, style), x)
        return
    check(loss, lambda x, y: plain(loss, x, y, style), x, y)
    loss.set_content(y)
    check(loss, lambda x: plain(loss, x, y, style), x)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize(
    "settings", [{}, {"content_layers": None, "tv_weight": 0.0}, {"normalize_features": "channel", "style_weight": 1e9}]
)
def test_tiles(frames: int, settings: dict[str, Any], library: None) -> None:
    loss = of_clips(tile_size=16, **settings)
    x, y, style = clips(2, frames, size=45), clips(2, frames, 1, size=45), clips(1, 2, 2, size=41)
    loss.set_style(style)
    images = (x, y) if loss.content_layers else (x,)
    for loss.chunk_size in (1, 2):
        check(loss, lambda x, y=y: plain(loss, x, y, style), *images)


def test_a_gradient_of_one_side(library: None) -> None:
    x, y, style, loss = clips(2, 3), clips(2, 3, 1), clips(1, 3, 2), of_clips()
    loss.set_style(style)
    for loss.chunk_size in (1, 8):
        check(lambda y: loss(x, y), lambda y: plain(loss, x, y, style), y)
        check(lambda x: loss(x, y), lambda x: plain(loss, x, y, style), x)
        with torch.no_grad():
            torch.testing.assert_close(loss(x, y), plain(loss, x, y, style), rtol=1e-10, atol=0.0)


@engines
def test_terms(engine: str) -> None:
    x, y, style = clips(2, 3), clips(2, 3, 1), clips(1, 3, 2)
    frames, whole = make(engine), of_clips(engine)
    of_frames = frames(x, y, style[:, :, 0], return_terms=True)[1]
    for whole.chunk_size in (1, 4, 8):
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                total, terms = whole(x.clone().requires_grad_(grad), y, style, return_terms=True)
            assert list(terms) == list(of_frames) and not any(value.requires_grad for value in terms.values())
            torch.testing.assert_close(total, terms["content"] + terms["style"] + terms["tv"])
            for name, value in terms.items():
                if not name.startswith("style"):
                    torch.testing.assert_close(value, of_frames[name])
            weights = zip(whole.style_layers, whole.style_weights, strict=True)
            torch.testing.assert_close(terms["style"], sum(w * terms[f"style/{layer}"] for layer, w in weights))
            for layer in whole.style_layers:
                error = gram(whole, x, layer) - gram(whole, style, layer)
                torch.testing.assert_close(terms[f"style/{layer}"], error.square().mean((1, 2)))


@engines
def test_styles_are_images_clips_and_blends(engine: str) -> None:
    x, y = clips(2, 3), clips(2, 3, 1)
    image, each, long = clips(1, 1, 2), clips(2, 1, 3), clips(1, 7, 4, size=20)
    loss = of_clips(engine, chunk_size=2)
    for style in (image, each, long):
        wanted = plain(loss, x, y, style)
        torch.testing.assert_close(loss(x, y, style), wanted, rtol=1e-10, atol=0.0)
        if style.shape[2] == 1:
            torch.testing.assert_close(loss(x, y, style[:, :, 0]), wanted, rtol=1e-10, atol=0.0)
    loss.set_style([image[:, :, 0], long], weights=[3, 1])
    mixed = loss(x, y)
    loss.set_style([image[:, :, 0]] * 3 + [long])
    torch.testing.assert_close(loss(x, y), mixed)
    assert not torch.allclose(mixed, loss(x, y, long))


@engines
def test_images_are_clips_of_one_frame(engine: str) -> None:
    x, y, style = (clips(2, 1, seed)[:, :, 0] for seed in range(3))
    image, clip = make(engine), of_clips(engine)
    assert torch.equal(image(x, y, style), clip(x, y, style))
    one = clip(x.unsqueeze(2), y.unsqueeze(2), style)
    torch.testing.assert_close(one, image(x.unsqueeze(2), y.unsqueeze(2), style), rtol=1e-12, atol=0.0)
    moving = clips(2, 3, 4)
    torch.testing.assert_close(clip(x, y, moving), clip(x.unsqueeze(2), y.unsqueeze(2), moving))


@engines
def test_weights_lists_and_reductions(engine: str) -> None:
    sizes = [(3, 24), (2, 20), (3, 24), (1, 18)]
    x, y = ([clips(1, t, seed + i, size=n) for i, (t, n) in enumerate(sizes)] for seed in (0, 10))
    loss, weight = of_clips(engine, chunk_size=4), [2.0, 0.0, -0.5, 1.5]
    style = clips(1, 2, 30)
    loss.set_style(style)
    wanted = torch.cat([w * plain(loss, a, b, style) for w, a, b in zip(weight, x, y, strict=True)])
    x[1] = torch.full_like(x[1], torch.nan)
    leaves = [z.requires_grad_() for z in x]
    found = loss(leaves, y, sample_weight=weight)
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-10, atol=0.0)
    by_clip = torch.autograd.grad(found.sum(), leaves)
    assert [bool(gradient.any()) for gradient in by_clip] == [True, False, True, True]
    for reduction, reduced in (("mean", wanted.mean()), ("sum", wanted.sum())):
        loss.reduction = reduction
        torch.testing.assert_close(loss(x, y, sample_weight=weight), reduced.detach(), rtol=1e-10, atol=0.0)

    batch, styles = clips(4, 2).requires_grad_(), clips(4, 1, 5)[:, :, 0]
    loss.reduction, few = "none", batch.detach()[[0, 2, 3]].requires_grad_()
    found = loss(batch, batch.detach().flip(0), styles, sample_weight=weight)
    rest = loss(few, batch.detach().flip(0)[[0, 2, 3]], styles[[0, 2, 3]])
    assert torch.equal(found[[0, 2, 3]], rest * placed(torch.tensor([2.0, -0.5, 1.5]).double())) and not found[1]
    a, b = torch.autograd.grad(found.sum(), batch)[0], torch.autograd.grad(rest.sum(), few)[0]
    torch.testing.assert_close(a[[0, 2, 3]], b * placed(torch.tensor([2.0, -0.5, 1.5])).double().view(-1, 1, 1, 1, 1))
    assert not a[1].any()


def test_a_repeated_call_gives_the_same_bits() -> None:
    x, y = clips(2, 5).float(), clips(2, 5, 1).float()
    for settings in ({"chunk_size": 2}, {"chunk_size": 10}, {"tile_size": 16}):
        loss = of_clips(**settings).float()
        loss.set_style(clips(1, 3, 2).float())
        results = []
        for _ in range(2):
            leaf = x.clone().requires_grad_()
            results.append((value := loss(leaf, y), *gradients(value, leaf)))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("network", ["squeezenet1_1", "own"])
@pytest.mark.parametrize("chunk_size", [None, 2, 8])
def test_networks_that_are_no_chains(network: str, chunk_size: int | None) -> None:
    """Squeezenet runs as a module; a module of your own that takes clips has Grams over all that it gives."""
    x, style = clips(2, 3, size=32), clips(1, 3, 2, size=32)
    if network == "own":
        own = [
            placed(po.PerceptualLoss(
                nn.Conv3d(3, 2, 3), content_layers=None, style_layers=["output"], reduction="none", gram_over=over,
            ).double())
            for over in ("frame", "clip")
        ]  # fmt: skip
        own[1].replace_network_weights(own[0].frozen_network.state_dict())
        assert torch.equal(own[0](x, style=style), own[1](x, style=style))
        return
    loss = placed(po.PerceptualLoss(
        network, weights="random", content_layers=["fire2"], style_layers=["relu1", "fire3"], style_weight=1e6,
        reduction="none", gram_over="clip", chunk_size=chunk_size,
    ).double())  # fmt: skip
    loss.set_style(style)
    check(loss, lambda x, y: plain(loss, x, y, style), x, clips(2, 3, 1, size=32))


@engines
def test_frames_are_brought_to_a_size(engine: str) -> None:
    x, y, style = clips(2, 3), clips(1, 3, 1), clips(1, 2, 2)
    small = of_clips(engine, input_size=(17, 18), resize_mode="center_crop", tv_weight=0.0, chunk_size=2)
    loss = of_clips(engine, tv_weight=0.0)
    top, left = (24 - 17) // 2, (27 - 18) // 2

    def cropped(x: Tensor) -> Tensor:
        return x[..., top : top + 17, left : left + 18]

    check(lambda x, y: small(x, y, style), lambda x, y: plain(loss, cropped(x), cropped(y), cropped(style)), x, y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("settings", [{"chunk_size": 2}, {"chunk_size": 8}, {"tile_size": 16}], ids=str)
def test_16_bits(dtype: torch.dtype, settings: dict[str, Any]) -> None:
    exact = of_clips()
    x, y, style = clips(2, 3), clips(2, 3, 1), clips(1, 2, 2)
    leaf = x.clone().requires_grad_()
    wanted = plain(exact, leaf, y, style)
    (truth,) = gradients(wanted, leaf)
    loss = of_clips(compute_dtype=dtype, **settings).float()
    leaf = x.to(dtype).requires_grad_()
    found = loss(leaf, y.to(dtype), style.float())
    (gradient,) = gradients(found, leaf)
    torch.testing.assert_close(found.double(), wanted.detach(), rtol=5e-2, atol=0.0)
    assert gradient.dtype == dtype
    assert torch.nn.functional.cosine_similarity(gradient.double().flatten(), truth.flatten(), dim=0) > 0.98


def test_a_longer_clip_takes_the_memory_of_its_gradient(library: None) -> None:
    """No more maps at a time than those of a chunk."""
    if placement.DEVICE != "cpu":
        pytest.skip("the allocator's account is that of a CPU")
    loss, peaks = of_clips(chunk_size=1).float(), []
    loss.set_style(clips(1, 2, 2, size=48).float())
    for frames in (3, 3, 9):  # once to warm up
        x, y = clips(1, frames, size=48).float().requires_grad_(), clips(1, frames, 1, size=48).float()
        peaks.append(allocated_peak(lambda x=x, y=y: torch.autograd.grad(loss(x, y).sum(), x)))
    longer = 4 * x[:, :, :6].numel()
    assert peaks[2] - peaks[1] <= 2 * longer + 4096
    styles = [clips(1, frames, 2, size=48).float() for frames in (3, 3, 9)]
    _, short, long = (allocated_peak(lambda style=style: loss.set_style(style)) for style in styles)
    assert long - short <= 4096


@pytest.mark.parametrize("chunk_size", [2, 8])
def test_the_operator_keeps_its_contract(chunk_size: int, library: None) -> None:
    loss = of_clips(chunk_size=chunk_size).float()
    x, y = (clips(2, 3, seed, size=12).float() for seed in range(2))
    loss.set_style(y[:1])
    trunk_input, terms = loss.trunk_input(x).encoded(), replace(loss.terms(), of_clips=True).encoded()
    for output in (x, x.to(memory_format=torch.channels_last_3d)):
        given = output.requires_grad_(), y.clone().requires_grad_(), [], loss._kept["style"], None, []
        torch.library.opcheck(torch.ops.perceptual_ops.perceptual_loss, (*given, *trunk_input, *terms, True, True))


def test_clips_compile_whole(library: None) -> None:
    loss, body = of_clips().float(), placed(nn.Conv3d(3, 3, 1))
    loss.set_style(clips(1, 2, 2).float())
    counter = CompileCounterWithBackend("aot_eager")

    def step(x: Tensor, weight: Tensor) -> Tensor:
        return loss(body(x), x[:1], sample_weight=weight).mean()

    compiled = torch.compile(step, fullgraph=True, backend=counter)
    for batch, frames, size in ((2, 3, 32), (3, 4, 37), (2, 5, 40)):
        x, weight = clips(batch, frames, size=size).float(), placed(torch.arange(1.0, batch + 1))
        results = [
            (loss, *torch.autograd.grad(loss, list(body.parameters())))
            for loss in (step(x, weight), compiled(x, weight))
        ]
        torch.testing.assert_close(results[1], results[0])
    assert counter.frame_count <= 2

    style = clips(1, 4, 3).float()
    compiled = torch.compile(lambda x, style: loss(x, x.flip(2), style), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, style), loss(x, x.flip(2), style))


def test_clips_are_exported() -> None:
    loss = of_clips(tv_weight=0.0).float()
    loss.set_style(clips(1, 2, 2).float())
    x, y = clips(2, 3, size=32).float(), clips(2, 3, 1, size=32).float()
    batch, frames = torch.export.Dim("batch", min=2), torch.export.Dim("frames", min=2)
    shapes = {"output": {0: batch, 2: frames}, "target": {0: batch, 2: frames}}
    program = torch.export.export(loss, (x, y), dynamic_shapes=shapes).module()
    x, y = clips(3, 2, size=32).float(), clips(3, 2, 1, size=32).float()
    torch.testing.assert_close(program(x, y), loss(x, y), rtol=1e-4, atol=1e-6)


def test_what_is_refused() -> None:
    loss, x = of_clips(), clips(1, 2)
    loss.set_style(x)
    found = refused(lambda: loss(x, x, frames=True))
    assert 'frames: expected False for gram_over="clip", whose style has no value for each frame; got True' in found
    assert "gram_over: expected one of 'frame', 'clip'; got 'time'" in refused(lambda: make(gram_over="time"))
    loss.gram_over = "frame"
    assert "style: expected style images" in refused(lambda: loss(x, x))
    alone = of_clips(style_layers=None)
    assert alone(x, x, frames=True).shape == (1, 2)

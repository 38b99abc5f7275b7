"""Clips (N, C, T, H, W) under networks of images: the mean over frames, each as an image of its own."""

from __future__ import annotations

from collections.abc import Callable

import perceptual
import placement
import pytest
import torch
from metrics import make as make_metric
from metrics import naive_lpips, pictures
from peer_torchvision import import_torchvision
from placement import placed
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import perceptual_ops as po
from bench.memory import allocated_peak
from perceptual_ops.compat import dists as compat_dists
from perceptual_ops.compat import torchmetrics
from perceptual_ops.compat.lpips import LPIPS as CompatLPIPS

pytestmark = pytest.mark.usefixtures("on_device")

engines = pytest.mark.parametrize("engine", ["lean", "autograd"])


def clips(batch: int, frames: int, seed: int = 0, size: int = 24) -> Tensor:  # fp64
    images = placed(perceptual.images(batch * frames, size, seed).double())
    return images.unflatten(0, (batch, frames)).transpose(1, 2).contiguous()


def make(engine: str = "lean", **settings: object) -> po.PerceptualLoss:
    settings = {"style_weight": 1e8, "tv_weight": 0.001, "reduction": "none", **settings}  # parts of a size
    return placed(perceptual.make(engine=engine, **settings).double())


def by_frame(loss: Callable[..., Tensor], *images: Tensor) -> Tensor:  # (N, T)
    return torch.stack([loss(*(x[:, :, t] for x in images)) for t in range(images[0].shape[2])], 1)


def gradients(value: Tensor, *images: Tensor) -> list[Tensor]:
    """By upstream numbers that tell samples apart."""
    upstream = torch.arange(1.0, value.numel() + 1).to(value).view(value.shape)
    return list(torch.autograd.grad((value * upstream).sum(), images))


def check(loss: Callable[..., Tensor], expected: Callable[..., Tensor], *images: Tensor) -> None:
    images = tuple(x.clone().requires_grad_() for x in images)
    found, wanted = loss(*images), expected(*images)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-14)
    for a, b in zip(gradients(found, *images), gradients(wanted, *images), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12 * b.abs().max().item())


@engines
@pytest.mark.parametrize(("batch", "targets"), [(2, 2), (2, 1), (1, 1)])
def test_the_perceptual_loss_is_the_mean_over_frames(engine: str, batch: int, targets: int) -> None:
    x, y, style = clips(batch, 3), clips(targets, 3, 1), clips(1, 1, 2)[:, :, 0]
    loss = make(engine, chunk_size=4)
    loss.set_style(style)
    check(loss, lambda x, y: by_frame(loss, x, y).mean(1), x, y)
    check(lambda x, y: loss(x, y, frames=True), lambda x, y: by_frame(loss, x, y), x, y)

    total, terms = loss(x, y, return_terms=True)
    single = [loss(x[:, :, t], y[:, :, t], return_terms=True)[1] for t in range(3)]
    assert list(terms) == list(single[0])
    for name, value in terms.items():
        assert not value.requires_grad
        torch.testing.assert_close(value, torch.stack([found[name] for found in single]).mean(0))
    torch.testing.assert_close(total, terms["content"] + terms["style"] + terms["tv"])
    of_frames = loss(x, y, return_terms=True, frames=True)[1]
    assert all(value.shape == (batch, 3) for value in of_frames.values())

    loss.reduction = "mean"
    torch.testing.assert_close(loss(x, y), total.mean())


@engines
@pytest.mark.parametrize("targets", [2, 1])
def test_kept_targets_of_clips(engine: str, targets: int) -> None:
    x, y = clips(2, 3), clips(targets, 3, 1)
    loss = make(engine)
    image, each, frames = clips(1, 1, 2)[:, :, 0], clips(2, 1, 3)[:, :, 0], clips(targets, 3, 4, size=20)
    for style in (image, each, [image, each]):
        kept = make(engine)
        kept.set_content(y)
        kept.set_style(style)
        check(kept, lambda x, style=style: by_frame(lambda x, y: loss(x, y, style), x, y).mean(1), x)
    kept.set_style(frames)
    check(kept, lambda x: by_frame(loss, x, y, frames).mean(1), x)
    kept.set_style([frames, frames.flip(2)], weights=[3, 1])
    check(
        lambda x: kept(x, frames=True),
        lambda x: by_frame(lambda x, y, a, b: loss(x, y, [a, a, a, b]), x, y, frames, frames.flip(2)),
        x,
    )


@engines
def test_lpips_is_the_mean_over_frames(engine: str) -> None:
    metric = make_metric("alex", engine=engine, chunk_size=2).double()
    x, y = clips(2, 3, size=32), clips(2, 3, 1, size=32)
    check(metric, lambda x, y: by_frame(lambda x, y: naive_lpips(metric, x, y), x, y).mean(1), x, y)
    check(lambda x, y: metric(x, y, frames=True), lambda x, y: by_frame(metric, x, y), x, y)
    for one_for_all in ((x, y[:1]), (x[:1], y)):
        check(metric, lambda x, y: by_frame(metric, x, y).mean(1), *one_for_all)


@engines
def test_dists_is_the_mean_over_frames(engine: str) -> None:
    metric, x, y = make_metric("dists", engine=engine).double(), clips(1, 2, size=12), clips(1, 2, 1, size=12)
    check(metric, lambda x, y: by_frame(metric, x, y).mean(1), x, y)


@engines
def test_layers_and_maps_of_clips(engine: str) -> None:
    metric = make_metric("alex", engine=engine).double()
    x, y = clips(2, 3, size=32), clips(2, 3, 1, size=32)
    total, layers = metric(x, y, return_layers=True)
    torch.testing.assert_close(total, metric(x, y))
    of_frames = [metric(x[:, :, t], y[:, :, t], return_layers=True)[1] for t in range(3)]
    for layer, *single in zip(layers, *of_frames, strict=True):
        torch.testing.assert_close(layer, torch.stack(single, 1).mean(1))
    metric.spatial = True
    check(metric, lambda x, y: torch.stack([metric(x[:, :, t], y[:, :, t]) for t in range(3)], 2), x, y)


@pytest.mark.parametrize("mode", ["bilinear", "center_crop"])
@engines
def test_frames_are_brought_to_a_size(engine: str, mode: str) -> None:
    loss = make(engine, input_size=(18, 20), resize_mode=mode)
    loss.set_style(clips(1, 1, 2)[:, :, 0])
    check(loss, lambda x, y: by_frame(loss, x, y).mean(1), clips(2, 2), clips(1, 2, 1))


@engines
def test_a_random_crop_is_the_same_for_all_frames(engine: str) -> None:
    loss = make(engine, input_size=8, resize_mode="random_crop", style_layers=None)
    frame = clips(1, 1)
    values = loss(frame.expand(-1, -1, 4, -1, -1), clips(1, 1, 1).expand(-1, -1, 4, -1, -1), frames=True)
    torch.testing.assert_close(values, values[:, :1].expand(-1, 4))
    assert len({round(loss(frame, clips(1, 1, 1)).item(), 9) for _ in range(5)}) > 1


def test_sequences_of_plain_layers_see_frames_and_other_modules_clips() -> None:
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3))
    x, y = clips(2, 3), clips(2, 3, 1)
    loss = placed(po.PerceptualLoss(chain, content_layers=["1", "3"], reduction="none").double())
    check(loss, lambda x, y: by_frame(loss, x, y).mean(1), x, y)

    own = placed(po.PerceptualLoss(nn.Conv3d(3, 2, 3), content_layers=["output"], reduction="none").double())
    features = own._network.module
    check(own, lambda x, y: (features(x) - features(y)).square().mean((1, 2, 3, 4)), x, y)
    with pytest.raises(ValueError, match="frames: expected False, since output is no clip"):
        own(x, y, frames=True)


def test_published_networks_see_frames() -> None:
    import_torchvision()
    loss = placed(po.PerceptualLoss("resnet50", weights="random", reduction="none"))
    x, y = clips(1, 2, size=16).float(), clips(1, 2, 1, size=16).float()
    torch.testing.assert_close(loss(x, y, frames=True), by_frame(loss, x, y), rtol=1e-4, atol=0.0)


def test_grey_clips() -> None:
    loss, x, y = make(style_layers=None), clips(2, 2)[:, :1], clips(2, 2, 1)
    check(loss, lambda x, y: by_frame(loss, x, y).mean(1), x, y)


def test_a_clip_alone_is_not_copied(library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a batch whose frames lie one behind the other; and nothing is kept but the gradient."""
    seen: list[bool] = []
    whole = po.LPIPS._of_images

    def spy(metric: po.LPIPS, images: list[Tensor], *rest: object, **keywords: object) -> list[Tensor]:
        seen.extend(x.untyped_storage().data_ptr() in owners for x in images)
        return whole(metric, images, *rest, **keywords)

    monkeypatch.setattr(po.LPIPS, "_of_images", spy)
    metric, sizes = make_metric("alex"), []
    alone = [clips(1, 3, seed, size=32).float() for seed in range(2)]
    batch = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (clips(2, 3, size=32), clips(2, 3, 1, size=32))]
    for x, y in (alone, [x.float() for x in batch]):
        owners = [z.untyped_storage().data_ptr() for z in (x, y)]
        x.requires_grad_()
        sizes.clear()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda saved: sizes.append(saved.untyped_storage().nbytes()) or saved, lambda saved: saved
        ):
            value = metric(x, y)
        assert sum(sizes) == 4 * x.numel()
        (gradient,) = torch.autograd.grad(value.sum(), x)
        assert gradient.shape == x.shape and gradient.any()
    assert seen == [True] * 4


def test_a_longer_clip_takes_the_memory_of_its_gradient(library: None) -> None:
    """Made in the forward, and multiplied by what comes from above in the backward."""
    if placement.DEVICE != "cpu":
        pytest.skip("the allocator's account is that of a CPU")
    metric, peaks = make_metric("alex", chunk_size=1), []
    for frames in (3, 3, 9):  # once to warm up
        x, y = clips(1, frames, size=48).float().requires_grad_(), clips(1, frames, 1, size=48).float()
        peaks.append(allocated_peak(lambda x=x, y=y: torch.autograd.grad(metric(x, y).sum(), x)))
    longer = 4 * x[:, :, :6].numel()
    assert peaks[2] - peaks[1] <= 2 * longer + 4096


@pytest.mark.parametrize("kind", ["perceptual", "alex"])
def test_clips_compile_whole(kind: str, library: None) -> None:
    loss = placed(perceptual.make(tv_weight=0.1, reduction="none")) if kind == "perceptual" else make_metric(kind)
    if isinstance(loss, po.PerceptualLoss):
        loss.set_style(clips(1, 1, 2)[:, :, 0].float())
    body, counter = placed(nn.Conv3d(3, 3, 1)), CompileCounterWithBackend("aot_eager")

    def step(x: Tensor, weight: Tensor) -> Tensor:
        return loss(body(x), x[:1], frames=True, sample_weight=weight).mean()

    compiled = torch.compile(step, fullgraph=True, backend=counter)
    for batch, frames, size in ((2, 3, 32), (3, 4, 37), (2, 5, 40)):
        given = clips(batch, frames, size=size).float(), placed(torch.arange(float(batch)))
        results = [
            (loss, *torch.autograd.grad(loss, list(body.parameters()))) for loss in (step(*given), compiled(*given))
        ]
        torch.testing.assert_close(results[1], results[0])
    assert counter.frame_count <= 2


def test_clips_are_exported() -> None:
    metric = make_metric("alex")
    x, y = clips(2, 3, size=32).float(), clips(2, 3, 1, size=32).float()
    batch, frames = torch.export.Dim("batch", min=2), torch.export.Dim("frames", min=2)
    program = torch.export.export(metric, (x, y), dynamic_shapes=[{0: batch, 2: frames}] * 2).module()
    x, y = clips(3, 2, size=32).float(), clips(3, 2, 1, size=32).float()
    torch.testing.assert_close(program(x, y), metric(x, y), rtol=1e-4, atol=1e-6)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises((TypeError, ValueError)) as error:
        call()
    return str(error.value)


def test_clips_that_are_refused() -> None:
    loss, metric, x = make(), make_metric("alex").double(), clips(2, 3, size=32)
    loss.set_style(x[:1, :, 0])
    image = x[:, :, 0]
    assert "output: expected a clip of at least one frame" in refused(lambda: loss(x[:, :, :0], x[:, :, :0]))
    for call in (lambda y: loss(x, y), lambda y: metric(x, y)):
        for y in (image, x[:, :, :2], x[..., 1:], x[:, :, :, 1:], torch.cat([x, x])[:3]):
            assert "target: expected the batch and size of output" in refused(lambda y=y, call=call: call(y))
    assert 'frames: expected False for reduction="mean"'.replace('"mean"', "'mean'") in refused(
        lambda: make(reduction="mean")(x, x, image[:1], frames=True)
    )
    assert "frames: expected False, since output is no clip" in refused(lambda: metric(image, image, frames=True))
    assert "frames: expected True or False" in refused(lambda: metric(x, x, frames=1))
    assert "style: expected an image, or a clip of the 3 frames of output, got one of 2" in refused(
        lambda: loss(x, x, x[:, :, :2])
    )
    assert "style: expected images, as output is, got a clip of 3 frames" in refused(lambda: loss(image, image, x))
    assert "style[1]: expected images, or clips of one length" in refused(lambda: loss(x, x, [x, image]))
    loss.set_content(x)
    assert "output: expected the batch and size of the images of set_content" in refused(lambda: loss(x[:, :, :2]))
    assert "output: expected the batch and size of the images of set_content" in refused(lambda: loss(image))


def test_wrong_shapes_say_that_clips_are_taken() -> None:
    metric, frames_first = make_metric("alex"), clips(2, 5, size=32).transpose(1, 2)
    for x, got in ((frames_first, "(2, 5, 3, 32, 35); of frames first pass output.transpose(1, 2)"),
                   (frames_first[:, :, :2], "(2, 5, 2, 32, 35)"), (frames_first[0, 0], "(3, 32, 35)")):  # fmt: skip
        found = refused(lambda x=x: metric(x, x))
        assert ", or (N, 1, H, W) for grey, or a clip (N, 3, T, H, W)" in found and found.endswith(f"got {got}")


def test_drop_ins_take_images_alone() -> None:
    x = pictures(2).unsqueeze(2)
    found = refused(lambda: CompatLPIPS(weights="random")(x, x))
    assert "in0: expected shape (N, 3, H, W)" in found and "clip" not in found
    assert "x: expected shape (N, 3, H, W)" in refused(lambda: compat_dists.DISTS(weights="random")(x, x))
    score = torchmetrics.LearnedPerceptualImagePatchSimilarity(weights="random")
    for y in (x, x[:, :2]):
        found = refused(lambda y=y: score(y, y))
        assert "img1: expected shape (N, 3, H, W)" in found and "clip" not in found

"""Lists of images of different sizes: one number each, in order, as if each were given alone."""

from __future__ import annotations

from collections.abc import Callable

import perceptual
import pytest
import torch
from metrics import make as make_metric
from placement import placed
from test_clips import clips, gradients, make, refused
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import perceptual_ops as po

pytestmark = pytest.mark.usefixtures("on_device")

engines = pytest.mark.parametrize("engine", ["lean", "autograd"])
SIZES = (24, 32, 24, 20, 32)


def image(size: int, seed: int) -> Tensor:  # (1, 3, size, size + 3), fp64
    return placed(perceptual.images(1, size, seed).double())


def some(sizes: tuple[int, ...] = SIZES, seed: int = 0) -> list[Tensor]:
    return [image(size, seed + i).requires_grad_() for i, size in enumerate(sizes)]


def alone(loss: Callable[..., Tensor], *lists: list[Tensor]) -> Tensor:
    return torch.cat([loss(*images) for images in zip(*lists, strict=True)])


def check(loss: Callable[..., Tensor], expected: Callable[..., Tensor], *lists: list[Tensor]) -> None:
    found, wanted = loss(*lists), expected(*lists)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-14)
    images = [image for images in lists for image in images]
    for a, b in zip(gradients(found, *images), gradients(wanted, *images), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12 * b.abs().max().item())


@engines
def test_the_perceptual_loss_of_each(engine: str) -> None:
    loss, x, y = make(engine), some(), some(seed=10)
    style, each = image(20, 30), torch.cat([image(22, 40 + i) for i in range(5)])
    loss.set_style(style)
    check(loss, lambda x, y: alone(loss, x, y), x, y)
    loss.set_style(each)
    expected = torch.cat([loss(a, b, each[i : i + 1]) for i, (a, b) in enumerate(zip(x, y, strict=True))])
    check(loss, lambda x, y: expected, x, y)

    total, terms = loss(x, y, return_terms=True)
    torch.testing.assert_close(total, terms["content"] + terms["style"] + terms["tv"])
    torch.testing.assert_close(total, expected)
    loss.reduction = "mean"
    torch.testing.assert_close(loss(x, y), expected.mean())


@engines
def test_kept_content_of_each(engine: str) -> None:
    loss, x, y = make(engine, style_layers=None), some((24, 24, 24)), torch.cat(some((24, 24, 24), 10)).detach()
    for targets in (y, y[:1]):
        loss.set_content(targets)
        check(loss, lambda x, targets=targets: loss(torch.cat(x), targets), x)


@engines
@pytest.mark.parametrize("name", ["alex", "dists"])
def test_the_metric_of_each(name: str, engine: str) -> None:
    metric = make_metric(name, engine=engine).double()
    sizes = (40, 32, 40) if name == "alex" else (12, 16, 12)
    check(metric, lambda x, y: alone(metric, x, y), some(sizes), some(sizes, 10))


def test_images_without_a_batch_in_any_dtype() -> None:
    loss = make(style_layers=None)
    x, y = some(), some(seed=10)
    x[2] = x[2].detach().float().requires_grad_()  # of a size with x[0]
    x[3] = x[3].detach()[:, :1].requires_grad_()  # grey
    found, wanted = loss([z[0] for z in x], tuple(z[0] for z in y)), alone(loss, x, y)
    torch.testing.assert_close(found, wanted)
    for a, b in zip(gradients(found, *x), gradients(wanted, *x), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        torch.testing.assert_close(a, b)


def test_one_size_runs_as_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    whole = po.LPIPS._of_images

    def spy(metric: po.LPIPS, images: list[Tensor], *rest: object, **keywords: object) -> list[Tensor]:
        batches.append(images[0].shape[0])
        return whole(metric, images, *rest, **keywords)

    monkeypatch.setattr(po.LPIPS, "_of_images", spy)
    x = [z.float() for z in some((32, 40, 32, 32))]
    make_metric("alex")(x, x)
    assert batches == [3, 1]


@engines
def test_clips_in_a_list(engine: str) -> None:
    loss = make(engine, style_layers=None)
    x, y = ([clips(1, frames, seed + frames) for frames in (2, 3, 2)] for seed in (0, 10))
    torch.testing.assert_close(loss(x, y), alone(loss, x, y))
    x, y = [x[0], x[2]], [y[0], y[2]]
    by_clip = [loss(*pair, frames=True) for pair in zip(x, y, strict=True)]
    torch.testing.assert_close(loss(x, y, frames=True), torch.cat(by_clip))


def test_maps_and_layers_of_each() -> None:
    metric = make_metric("alex").double()
    x, y = some((40, 32, 40)), some((40, 32, 40), 10)
    total, layers = metric(x, y, return_layers=True)
    torch.testing.assert_close(torch.stack(layers).sum(0), total)
    torch.testing.assert_close(total, alone(metric, x, y))
    metric.spatial = True
    torch.testing.assert_close(metric(x[::2], y[::2]), alone(metric, x[::2], y[::2]))
    assert r"output[1]: expected the size and frames of output[0]" in refused(lambda: metric(x, y))


@engines
def test_sizes_of_the_network(engine: str) -> None:
    loss = make(engine, style_layers=None, input_size=(18, 20))
    check(loss, lambda x, y: alone(loss, x, y), some(), some(seed=10))


def test_lists_of_your_own_module() -> None:
    loss = placed(po.PerceptualLoss(nn.Conv2d(2, 3, 3), content_layers=["output"], reduction="none").double())
    x, y = ([z.detach()[:, :2].requires_grad_() for z in some(seed=seed)] for seed in (0, 10))
    check(loss, lambda x, y: alone(loss, x, y), x, y)


def test_lists_compile_whole_for_each_set_of_sizes(library: None) -> None:
    metric, body, counter = make_metric("alex"), placed(nn.Conv2d(3, 3, 1)), CompileCounterWithBackend("aot_eager")

    def step(x: list[Tensor]) -> Tensor:
        return metric([body(z) for z in x], x).mean()

    compiled = torch.compile(step, fullgraph=True, backend=counter)
    for sizes in ((32, 40, 32), (37, 37, 33)):
        x = [z.detach().float() for z in some(sizes)]
        results = [(loss, *torch.autograd.grad(loss, list(body.parameters()))) for loss in (step(x), compiled(x))]
        torch.testing.assert_close(results[1], results[0])


def test_lists_that_are_refused() -> None:
    loss, metric = make(), make_metric("alex").double()
    x = [z.detach() for z in some((32, 40))]
    loss.set_style(x[0])
    for call in (loss, metric):
        assert "output: expected a batch of images or a list of at least one" in refused(lambda call=call: call([], []))
        assert "target: expected a list of 2 images, as output is, got a batch" in refused(
            lambda call=call: call(x, x[0])
        )
        assert "target: expected a batch, as output is, got a list" in refused(lambda call=call: call(x[0], x[:1]))
        assert "target: expected a list of 2 images, as output is, got one of 1" in refused(
            lambda call=call: call(x, x[:1])
        )
        assert "target[1]: expected the batch and size of output" in refused(
            lambda call=call: call(x, [x[0], x[1][..., 1:]])
        )
        assert "output[1]: expected one image, (C, H, W) or (1, C, H, W), got (2," in refused(
            lambda call=call: call([x[0], torch.cat([x[1], x[1]])], x)
        )
        assert "output[1]: expected images or clips, as output[0]" in refused(
            lambda call=call: call([x[0], x[1].unsqueeze(2)], x)
        )
        assert "output[1]: expected shape" in refused(lambda call=call: call([x[0], x[1][0, 0]], x))
        assert "output[0]: expected a tensor of images" in refused(lambda call=call: call(["x.png"], x))
    loss.set_content(torch.cat([x[0]] * 2))
    assert "output: expected the batch and size of the images of set_content" in refused(lambda: loss(x))

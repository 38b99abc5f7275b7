"""The size in which images enter the network: resized and cropped within the chunk, alike for output and target."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from maps import assert_accurate
from peer_torchvision import import_torchvision
from placement import placed
from test_module_trunk import Residual, close, images, value_and_gradients
from torch import Tensor, nn

import perceptual_ops as po
from perceptual_ops.engine import antialiasing
from perceptual_ops.engine.antialiasing import INTERPOLATIONS, kept_interpolation, resized_by_products

pytestmark = pytest.mark.usefixtures("on_device")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Residual().double().eval()


def make(network: nn.Module | str, mode: str, engine: str, **settings: object) -> po.PerceptualLoss:
    settings = {"content_layers": ["mix"], "input_size": (9, 7), "resize_mode": mode, "engine": engine, **settings}
    return placed(po.PerceptualLoss(network, reduction="none", chunk_size=1, tv_weight=0.2, **settings))


def resized(mode: str) -> Callable[[Tensor], Tensor]:
    if mode == "center_crop":
        return lambda x: x[:, :, 1:10, 3:10]
    return lambda x: F.interpolate(x, (9, 7), mode=mode, antialias=True)


@pytest.mark.parametrize("engine", ["lean", "autograd"])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "center_crop"])
def test_images_are_brought_to_a_size(network: nn.Module, mode: str, engine: str) -> None:
    """Total variation stays that of the images; style images and kept targets enter in the same size."""
    x, y, style = images(2), images(2, 1), images(1, 7, size=20)
    loss = make(network, mode, engine, style_layers={"mix": 10.0})
    plain = placed(
        po.PerceptualLoss(
            network, content_layers=["mix"], style_layers={"mix": 10.0}, reduction="none", engine="autograd"
        )
    )
    size = resized(mode)
    cropped = (lambda z: z[:, :, 5:14, 7:14]) if mode == "center_crop" else size
    loss.set_style(style)
    plain.set_style(cropped(style))

    def expected(x: Tensor, y: Tensor) -> Tensor:
        return plain(size(x), size(y)) + 0.2 * po.total_variation(x, reduction="none")

    close(value_and_gradients(loss, x, y), value_and_gradients(expected, x, y))
    loss.set_content(y)
    close(value_and_gradients(loss, x), value_and_gradients(expected, x, y)[:2])


@pytest.mark.parametrize("engine", ["lean", "autograd"])
def test_a_chain_takes_a_size_too(engine: str) -> None:
    loss = make("vgg11", "bilinear", engine, weights="random", content_layers=["relu2_1"], input_size=16).double()
    plain = placed(po.PerceptualLoss("vgg11", weights="random", content_layers=["relu2_1"], reduction="none").double())
    x, y = images(2), images(2, 1)

    def expected(x: Tensor, y: Tensor) -> Tensor:
        size = [F.interpolate(z, (16, 16), mode="bilinear", antialias=True) for z in (x, y)]
        return plain(*size) + 0.2 * po.total_variation(x, reduction="none")

    close(value_and_gradients(loss, x, y), value_and_gradients(expected, x, y))


@pytest.mark.parametrize("engine", ["lean", "autograd"])
def test_a_random_crop_is_the_same_of_both(network: nn.Module, engine: str) -> None:
    loss = make(network, "random_crop", engine)
    loss.tv_weight = 0.0
    x = images(2)
    assert not loss(x, x).any()
    torch.manual_seed(4)
    found = value_and_gradients(loss, x, images(2, 1))
    torch.manual_seed(4)
    close(value_and_gradients(loss, x, images(2, 1)), found)
    corners = set()
    for _ in range(40):
        _, gradient, _ = value_and_gradients(loss, x, images(2, 1))
        touched = gradient[0].abs().sum(0).nonzero()
        corners.add(tuple(touched.min(0).values.tolist()))
        assert (touched.max(0).values - touched.min(0).values < torch.tensor([9, 7]).to(touched)).all()
    rows, columns = zip(*corners, strict=True)
    assert {min(rows), max(rows)} == {0, 3} and {min(columns), max(columns)} == {0, 7}
    compiled = torch.compile(lambda x: loss(x, x), fullgraph=True, backend="aot_eager")
    assert not compiled(x).any()


def test_it_is_torchvisions_resize() -> None:
    functional = pytest.importorskip("torchvision.transforms.functional") if import_torchvision() else None
    settings = {"content_layers": ["output"], "input_size": (9, 7), "content_distance": "sse"}
    identity = placed(po.PerceptualLoss(nn.Identity(), **settings))
    x = images(1, dtype=torch.float32)
    resized = functional.resize(x, [9, 7], antialias=True)
    torch.testing.assert_close(identity(x, torch.zeros_like(x)), resized.square().sum())


SIZES = [((12, 14), (9, 7)), ((7, 9), (20, 9)), ((5, 64), (1, 3)), ((8, 8), (8, 8)), ((33, 30), (32, 31))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("entered", "size"), SIZES, ids=str)
@pytest.mark.parametrize("mode", INTERPOLATIONS)
def test_it_is_torchs_antialiased_interpolation(
    mode: str, entered: tuple[int, int], size: tuple[int, int], dtype: torch.dtype
) -> None:
    """Value and gradient, of maps of either layout; larger, smaller, and as they are."""
    x = torch.rand((2, 3, *entered), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    upstream = torch.rand((2, 3, *size), generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def results(resize: Callable[[Tensor], Tensor], dtype: torch.dtype) -> list[Tensor]:
        found = []
        for layout in (torch.contiguous_format, torch.channels_last):
            leaf = x.to(dtype, copy=True, memory_format=layout).requires_grad_()
            y = resize(leaf)
            found += [y.detach(), *torch.autograd.grad(y, leaf, upstream.to(dtype))]
        return found

    torchs = partial(F.interpolate, size=size, mode=mode, antialias=True)
    ours = results(lambda z: resized_by_products(z, *size, mode), dtype)
    for found in zip(ours, results(torchs, dtype), results(torchs, torch.float64), strict=True):
        assert_accurate(*found)


def test_a_gpu_gets_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which a tensor of the meta device, too, is told."""
    monkeypatch.setattr(antialiasing, "resized_by_products", lambda *arguments: arguments)
    x = torch.empty(1, 3, 8, 8, device="meta")
    assert antialiasing.resized(x, 4, 5, "bicubic") == (x, 4, 5, "bicubic")
    assert isinstance(antialiasing.resized(images(1).cpu(), 4, 5, "bicubic"), Tensor)


@pytest.mark.parametrize("mode", INTERPOLATIONS)
def test_its_backward_is_two_products(mode: str) -> None:
    """Torch's own adds by atomics on CUDA; products are differentiable again."""
    x = images(1, size=6).requires_grad_()
    size = partial(resized_by_products, height=4, width=9, mode=mode)
    nodes, found = [size(x).grad_fn], set()
    while nodes:
        node = nodes.pop()
        found.add(node.name())
        nodes += [below for below, _ in node.next_functions if below is not None]
    assert not any("Upsample" in name for name in found) and found & {"BmmBackward0", "MmBackward0"}
    assert torch.autograd.gradgradcheck(lambda x: size(x).square().sum(), x)


def test_autocast_does_not_narrow_it() -> None:
    x = images(1, dtype=torch.float32)
    size = partial(resized_by_products, height=7, width=9, mode="bilinear")
    expected = size(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(size(x), expected)


def test_what_is_kept_in_inference_mode_serves_in_training() -> None:
    kept_interpolation.cache_clear()
    size, x = partial(resized_by_products, height=5, width=7, mode="bicubic"), images(1)
    with torch.inference_mode():
        expected = size(x)
    y = size(x.requires_grad_())
    y.sum().backward()
    assert torch.equal(y, expected) and x.grad is not None


def test_what_does_not_fit_is_refused(network: nn.Module) -> None:
    x = images(1)
    with pytest.raises(
        ValueError, match=r"input_size: expected images of at least 13 x 13 pixels to crop, got 12 x 14"
    ):
        make(network, "center_crop", "lean", input_size=13)(x, x)
    with pytest.raises(
        ValueError, match="images: expected a target with each call, since a kept one would be of another"
    ):
        make(network, "random_crop", "lean").set_content(x)
    with pytest.raises(
        ValueError, match=r"input_size: expected None, a number of pixels or two \(height, width\), got"
    ):
        make(network, "bilinear", "lean", input_size=(3, 4, 5))
    with pytest.raises(ValueError, match="input_size: expected a whole number of at least 1, got 0"):
        make(network, "bilinear", "lean", input_size=0)
    with pytest.raises(ValueError, match="resize_mode: expected one of 'bilinear', 'bicubic', 'center_crop'"):
        make(network, "nearest", "lean")
    with pytest.raises(ValueError, match="output: expected at least 4 x 4 pixels for vgg11, got 3 x 3"):
        make("vgg11", "bilinear", "lean", weights="random", content_layers=["relu3_1"], input_size=3)(
            x.float(), x.float()
        )
    with pytest.raises(ValueError, match="drop_tokens: expected 0 for a network whose features are maps, got 1"):
        po.PerceptualLoss("vgg11", weights="random", drop_tokens=1)
    clips = x.unsqueeze(2).float()
    with pytest.raises(ValueError, match="input_size: expected None for clips, which are not resized"):
        placed(po.PerceptualLoss(nn.Conv3d(3, 2, 1), content_layers=["output"], input_size=8))(clips, clips)
    with pytest.raises(ValueError, match="tv_weight: expected 0 for clips, which have no total variation"):
        placed(po.PerceptualLoss(nn.Conv3d(3, 2, 1), content_layers=["output"], tv_weight=1.0))(clips, clips)


def test_other_sizes_forget_kept_targets(network: nn.Module) -> None:
    loss = make(network, "bilinear", "lean", style_layers=["mix"])
    loss.set_content(images(2))
    loss.set_style(images(1))
    loss(images(2))
    loss.input_size = 8
    with pytest.raises(ValueError, match="target: expected content images, got None"):
        loss(images(2))

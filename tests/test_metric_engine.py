"""LPIPS and DISTS: the lean engine, ordinary autograd and the papers' formulas give the same numbers."""

from __future__ import annotations

import copy
from functools import cache, partial

import placement
import pytest
import torch
from metrics import METRICS, SMALL, Metric, make, naive, pictures
from placement import placed
from torch import Tensor

from perceptual_ops.engine import batching
from perceptual_ops.engine.metric_head import MetricHead
from perceptual_ops.engine.metrics import Lpips

pytestmark = pytest.mark.usefixtures("on_device")

UPSTREAM = torch.tensor([1.0, -2.5, 0.75, 3.0])

Result = tuple[Tensor, Tensor, Tensor]  # distances, d/d output, d/d target


def gradients(measure, x: Tensor, y: Tensor) -> Result:
    """Distances and both gradients, with an upstream number of its own for each sample."""
    x, y = (images.detach().clone(memory_format=torch.preserve_format).requires_grad_() for images in (x, y))
    distances = measure(x, y)
    upstream = UPSTREAM[: distances.shape[0]].to(distances)
    return distances.detach(), *torch.autograd.grad(distances, [x, y], upstream)


def errors(found: Result, exact: Result) -> list[float]:
    """For each the distance over the exact length."""
    lengths = [(a.double() - b.double()).norm() / b.double().norm() for a, b in zip(found, exact, strict=True)]
    return [length.item() for length in lengths]


def small_tiles(monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    for device in ("CPU", "GPU"):
        monkeypatch.setattr(batching, f"{device}_PIXELS", pixels)


def close(found: Result, exact: Result, tolerance: float) -> None:
    assert max(errors(found, exact)) <= tolerance


def pair(batch: int, *size: int) -> tuple[Tensor, Tensor]:
    return pictures(batch, *size), pictures(batch, *size, seed=1)


def exact_of(metric: Metric, x: Tensor, y: Tensor) -> Result:
    wide = copy.deepcopy(metric).double()
    return gradients(lambda x, y: naive(wide, x, y), x.double(), y.double())


@cache
def exact(name: str, device: str, batch: int, *size: int) -> Result:
    """Of `pair`, by the formulas."""
    return exact_of(make(name), *pair(batch, *size))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"chunk_size": 2}, {"engine": "autograd"}, {"engine": "autograd", "chunk_size": 2}, {"backend": "reference"}],
    ids=str,
)
def test_numbers_of_the_paper(name: str, settings: dict[str, object]) -> None:
    x, y = (images.double() for images in pair(3, *SMALL[name]))
    found = gradients(make(name, **settings).double(), x, y)
    close(found, exact(name, placement.DEVICE, 3, *SMALL[name]), 1e-9)


@pytest.mark.parametrize("batches", [(3, 1), (1, 3), (1, 1)])
@pytest.mark.parametrize("name", METRICS)
def test_one_image_for_a_batch(name: str, batches: tuple[int, int]) -> None:
    x, y = (pictures(batch, *SMALL[name], seed).double() for seed, batch in enumerate(batches))
    lean, autograd = (make(name, engine=engine).double() for engine in ("lean", "autograd"))
    many = [images.expand(max(batches), -1, -1, -1) for images in (x, y)]
    close(gradients(lean, x, y), gradients(autograd, x, y), 1e-10)
    torch.testing.assert_close(lean(x, y), lean(*many))


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("name", METRICS)
def test_only_the_gradients_that_are_wanted(name: str, wanted: tuple[bool, bool]) -> None:
    metric = make(name).double()
    x, y = (images.double() for images in pair(2, *SMALL[name]))
    distances, *both = gradients(metric, x, y)
    for images, of in zip((x, y), wanted, strict=True):
        images.requires_grad_(of)
    found = metric(x, y)
    assert torch.equal(found, distances) and found.requires_grad == any(wanted)
    if any(wanted):
        found.backward(UPSTREAM[:2].to(found))
    for images, of, gradient in zip((x, y), wanted, both, strict=True):
        assert (images.grad is None) != of
        if images.grad is not None:
            torch.testing.assert_close(images.grad, gradient)


# Tiles of 16 pixels, so that small images have many.
TILED = [((37, 43), 1, "vgg16"), ((19, 52), 2, "vgg16"), ((37, 44), 1, "stlpips")]


@pytest.mark.parametrize(("size", "batch", "name"), TILED, ids=str)
def test_tiles_change_nothing(
    size: tuple[int, int], batch: int, name: str, monkeypatch: pytest.MonkeyPatch, library: None
) -> None:
    if name == "stlpips":
        pytest.importorskip("stlpips_pytorch", exc_type=ImportError)
    settings = {"weights": "stlpips"} if name == "stlpips" else {}
    network = "alex" if name == "stlpips" else name
    lean, autograd = (make(network, engine=engine, **settings).double() for engine in ("lean", "autograd"))
    x, y = (images.double() for images in pair(batch, *size))
    whole, expected = gradients(lean, x, y), gradients(autograd, x, y)
    small_tiles(monkeypatch, 2 * 16 * 16)
    tiled = gradients(lean, x, y)
    assert not torch.equal(tiled[1], whole[1])  # another order of sums: they were run in tiles
    close(tiled, expected, 1e-10)
    for some in ((x[:1], y), (y, x[:1])) if batch > 1 else ():
        close(gradients(lean, *some), gradients(autograd, *some), 1e-10)
    with torch.no_grad():
        torch.testing.assert_close(lean(x, y), expected[0])


@pytest.mark.parametrize("name", METRICS)
def test_fp32_within_twice_the_worst_naive_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole and in tiles."""
    x, y = pair(2, 47, 53)
    metric, truth = make(name), exact(name, placement.DEVICE, 2, 47, 53)
    nhwc = [images.contiguous(memory_format=torch.channels_last) for images in (x, y)]
    rivals = [errors(gradients(lambda x, y: naive(metric, x, y), *images), truth) for images in ((x, y), nhwc)]
    for pixels in (batching.CPU_PIXELS, 16 * 16):
        small_tiles(monkeypatch, pixels)
        ours = errors(gradients(metric, x, y), truth)
        assert all(mine <= 2 * max(naives) + 1e-6 for mine, *naives in zip(ours, *rivals, strict=True)), pixels
        assert ours[0] <= 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["vgg16", "dists"])
def test_sixteen_bits_within_twice_autograd(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, library: None
) -> None:
    """Whole and in tiles. Small: a processor without instructions for 16 bits takes seconds for autograd's pass."""
    x, y = pair(2, *SMALL[name])
    lean, autograd = (make(name, engine=engine, compute_dtype=dtype) for engine in ("lean", "autograd"))
    truth = exact(name, placement.DEVICE, 2, *SMALL[name])
    rival = errors(gradients(autograd, x, y), truth)
    for pixels in (batching.CPU_PIXELS, 8 * 8):
        small_tiles(monkeypatch, pixels)
        ours = errors(gradients(lean, x, y), truth)
        allowed = [2 * theirs + 4 * torch.finfo(dtype).eps for theirs in rival]
        assert all(mine <= most for mine, most in zip(ours, allowed, strict=True)), (pixels, ours, allowed)


@pytest.mark.parametrize("name", METRICS)
def test_fp16_gradients_do_not_vanish(name: str, library: None) -> None:
    """A mean over very many pixels comes before the gradient, as these numbers stand for, and a small weight after."""

    def small(x: Tensor, y: Tensor, **settings: object) -> Tensor:
        metric = make(name, **settings)
        metric._kept["learned_weights"] = [numbers * 2.0**-16 for numbers in metric._kept["learned_weights"]]
        return 1e-6 * metric(x, y)

    x, y = pair(1, *SMALL[name])
    found = gradients(partial(small, compute_dtype=torch.float16), x, y)
    assert errors(found, gradients(small, x, y))[1] < 0.2


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("apart", [1.0, 1e-2])
def test_bounds_of_gradients_hold(apart: float, inside: bool) -> None:
    """Of maps whose pixels differ in length, one without features, by weights of both signs."""
    drawn = torch.randn(4, 3, 6, 7, 5, generator=torch.Generator().manual_seed(0))
    x = drawn[0] * (4 * drawn[2, :, :1]).exp2()
    y = x + apart * drawn[1] * x.abs()
    x[0, :, 3, 2] = 0
    x, y, weights = placed(x), placed(y), placed(drawn[3, 0, :, 0, 0])
    metric = Lpips([weights], 1e-3 if inside else 1e-10, inside)
    bounds = metric.bound(0, x, y), metric.bound(0, y, x)
    _, *found = metric.gradients([0], [x], [y], None, True, True)
    for bound, (gradient,) in zip(bounds, found, strict=True):
        largest = gradient.abs().amax((1, 2, 3))
        assert (largest <= 1.0001 * bound).all() and (bound < 8 * largest).all()


def test_gradients_by_maps_are_scaled_where_they_are_made() -> None:
    """With learned weights so small that fp16 flushes them to 0."""
    x, y = (placed(torch.rand(2, 4, 5, 6, generator=torch.Generator().manual_seed(seed))).half() for seed in (0, 1))
    metric = Lpips([placed(torch.full((4,), 1e-9))], 1e-10, False)
    head = MetricHead(metric, {"a": 0}, {"a": y}, (True, True))
    head.on_tap("a", x)
    exact = metric.gradients([0], [x.float()], [y.float()], None, True, True)[1:]
    for made, (expected,) in zip((head.by_output, head.by_target), exact, strict=True):
        scale = placed(torch.tensor([2.0**30, 2.0**31]))
        found = made.gradient("a", scale).float() / scale.view(2, 1, 1, 1)
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.01 * expected.abs().max().item())


def flat(name: str, value: float) -> Tensor:
    return torch.full((1, 3, *SMALL[name]), value, device=placement.DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", METRICS)
def test_flat_black_and_equal_images(name: str, dtype: torch.dtype) -> None:
    """Where peers have NaN gradients; a network without biases has no features of what is normalised to 0."""
    metric = make(name, weights="random", **({} if name == "dists" else {"mean": (0.0, 0.0, 0.0)}))
    metric = metric.double() if dtype == torch.float64 else metric
    metric.compute_dtype = None if dtype == torch.float64 else dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    black, white, grey = (flat(name, value) for value in (0.0, 1.0, 0.5))
    pairs = ((black, black), (black, white), (black, pictures(1, *SMALL[name])), (grey, grey))
    with torch.autograd.set_detect_anomaly(True):
        for x, y in pairs:
            distances, *both = gradients(metric, x.to(wide), y.to(wide))
            assert distances.isfinite().all() and all(gradient.isfinite().all() for gradient in both)
            if torch.equal(x, y):
                assert not distances.any() and not both[0].any() and not both[1].any()


@pytest.mark.parametrize("name", METRICS)
def test_a_broken_image_has_a_broken_distance(name: str) -> None:
    x, y = pair(2, *SMALL[name])
    x[1, 0, 5, 5] = torch.nan
    distances, gradient, _ = gradients(make(name), x, y)
    assert distances[0].isfinite() and distances[1].isnan()
    assert gradient[0].isfinite().all() and not gradient[1].isfinite().all()


@pytest.mark.parametrize("network", ["alex", "vgg16", "squeeze"])
def test_layers_and_maps_add_up(network: str) -> None:
    x, y = (images.double() for images in pair(2, *SMALL[network]))
    metric, spatial = make(network).double(), make(network, spatial=True).double()
    total, layers = metric(x, y, return_layers=True)
    assert len(layers) == (7 if network == "squeeze" else 5)
    torch.testing.assert_close(total, metric(x, y))
    torch.testing.assert_close(torch.stack(layers).sum(0), total)
    maps, of_layers = spatial(x, y, return_layers=True)
    assert maps.shape == (2, 1, *SMALL[network])
    torch.testing.assert_close(torch.stack(of_layers).sum(0), maps)
    weights = torch.rand(maps.shape, dtype=maps.dtype, generator=torch.Generator().manual_seed(3)).to(maps)
    reference = make(network, spatial=True, backend="reference").double()
    results = [
        torch.autograd.grad((weights * measure(leaf, y)).sum(), leaf)[0]
        for measure, leaf in ((spatial, x.clone().requires_grad_()), (reference, x.clone().requires_grad_()))
    ]
    torch.testing.assert_close(*results)


def test_each_layer_has_a_gradient_of_its_own() -> None:
    x, y = pictures(1).double().requires_grad_(), pictures(1, seed=1).double()
    _, layers = make("alex").double()(x, y, return_layers=True)
    found = [torch.autograd.grad(layer.sum(), x, retain_graph=True)[0] for layer in layers]
    (whole,) = torch.autograd.grad(make("alex").double()(x, y).sum(), x)
    torch.testing.assert_close(sum(found), whole)
    assert not torch.equal(found[0], found[1])

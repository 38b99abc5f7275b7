"""The operators that give values and gradients in one pass, against the reference and against two passes."""

from __future__ import annotations

import pytest
import torch
from maps import DTYPES, LAYOUTS, SHAPES, assert_accurate, random_map, relative_error
from operators import DISTANCES, layer_weights, naive_distance, target_map
from torch import Tensor
from torch.library import opcheck

from perceptual_ops import reference

Result = tuple[Tensor, Tensor, list[Tensor]]  # (N), (L, N), L x (N, C, H, W)

PARAMETERS = {"charbonnier": 1e-6, "huber": 1.0}
VARIATIONS = ["l1", "l2_squared"]


def layers_of(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> list[Tensor]:
    """Three layers of one batch, of different sizes."""
    shapes = [shape, (shape[0], shape[1] + 2, max(1, shape[2] // 2), shape[3]), (shape[0], 8, 4, 4)]
    return [random_map(each, dtype, device, seed) for seed, each in enumerate(shapes)]


def upstream_of(x: Tensor) -> Tensor:
    """One number a sample, in the accumulation type."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return random_map((x.shape[0],), wide, str(x.device), 7)


def feature_loss(maps: list[Tensor], distance: str, grad: Tensor | None) -> Result:
    targets = [target_map(x, layer) for layer, x in enumerate(maps)]
    settings = (layer_weights(maps), distance, PARAMETERS.get(distance, 0.0))
    return torch.ops.perceptual_ops.feature_loss_with_gradient(maps, targets, *settings, grad)


def naive_feature_loss(maps: list[Tensor], distance: str, grad: Tensor | None) -> Result:
    """As a user writes it, in the maps' own dtype."""
    leaves = [x.detach().requires_grad_() for x in maps]
    per_layer = torch.stack([naive_distance(x - target_map(x, i), distance) for i, x in enumerate(leaves)])
    loss = (per_layer * torch.tensor(layer_weights(maps), dtype=per_layer.dtype, device=per_layer.device)[:, None]).sum(
        0
    )
    upstream = torch.ones_like(loss) if grad is None else grad.to(loss.dtype)
    return loss.detach(), per_layer.detach(), list(torch.autograd.grad(loss, leaves, upstream))


def exact_feature_loss(maps: list[Tensor], distance: str, grad: Tensor | None) -> Result:
    leaves = [x.double().requires_grad_() for x in maps]
    targets = [target_map(x, layer) for layer, x in enumerate(leaves)]
    settings = (layer_weights(maps), distance, PARAMETERS.get(distance, 0.0))
    loss, per_layer = reference.feature_terms(leaves, targets, *settings)
    upstream = torch.ones_like(loss) if grad is None else grad.double()
    return loss.detach(), per_layer.detach(), list(torch.autograd.grad(loss, leaves, upstream))


def flat(result: Result) -> list[Tensor]:
    return [result[0], result[1], *result[2]]


@pytest.mark.parametrize("with_grad", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("distance", DISTANCES)
def test_feature_loss(distance: str, dtype: torch.dtype, with_grad: bool, native: str, device: str) -> None:
    for shape in SHAPES:
        maps = layers_of(shape, dtype, device)
        grad = upstream_of(maps[0]) if with_grad else None
        ours = feature_loss(maps, distance, grad)
        naive, exact = (make(maps, distance, grad) for make in (naive_feature_loss, exact_feature_loss))
        for mine, theirs, truth in zip(flat(ours), flat(naive), flat(exact), strict=True):
            assert_accurate(mine, theirs, truth)
        assert all(gradient.dtype == dtype for gradient in ours[2])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", VARIATIONS)
def test_total_variation(kind: str, dtype: torch.dtype, native: str, device: str) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for shape in [*SHAPES, (2, 3, 9, 5000)]:
        x = random_map(shape, dtype, device, 1)
        for grad in (None, upstream_of(x)):
            results = []
            for each in (wide, torch.float64):
                image = x.detach().to(each).requires_grad_()
                values = reference.variation(image, kind)
                upstream = torch.ones_like(values) if grad is None else grad.to(each)
                results.append((values.detach(), torch.autograd.grad(values, image, upstream)[0]))
            values, gradient = torch.ops.perceptual_ops.total_variation_with_gradient(x, kind, grad)
            assert_accurate(values, results[0][0], results[1][0])
            assert_accurate(gradient, results[0][1].to(dtype), results[1][1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_agrees_with_two_passes(layout: str, dtype: torch.dtype, native: str, device: str) -> None:
    """In every memory layout, with the strides of torch.empty_like."""
    library = torch.ops.perceptual_ops
    for shape in [(2, 5, 7, 9), (3, 4, 6, 1), (2, 1, 3, 5), (2, 6, 1, 1), (2, 3, 70, 80)]:
        maps = [LAYOUTS[layout](x) for x in layers_of(shape, dtype, device)]
        copies = [x.clone() for x in maps]
        targets, weights = [target_map(x, layer) for layer, x in enumerate(maps)], layer_weights(maps)
        grad = upstream_of(maps[0])
        loss, per_layer, gradients = library.feature_loss_with_gradient(maps, targets, weights, "huber", 0.5, grad)
        values, gradient = library.total_variation_with_gradient(maps[0], "l1", grad)
        loss_alone, per_layer_alone = library.feature_loss(maps, targets, weights, "huber", 0.5)
        alone = [loss_alone, per_layer_alone, library.total_variation(maps[0], "l1")]
        for mine, other in zip((loss, per_layer, values), alone, strict=True):
            torch.testing.assert_close(mine, other, rtol=2e-6, atol=0)
        gradients_alone = library.feature_loss_backward(grad, maps, targets, weights, "huber", 0.5)
        gradients_alone.append(library.total_variation_backward(grad, maps[0], "l1"))
        for mine, other, x in zip([*gradients, gradient], gradients_alone, [*maps, maps[0]], strict=True):
            assert relative_error(mine, other) <= torch.finfo(dtype).eps
            assert mine.stride() == torch.empty_like(x).stride()
        assert all(torch.equal(x, copy) for x, copy in zip(maps, copies, strict=True))


def test_empty_batch(native: str, device: str) -> None:
    x, y = torch.empty((0, 3, 4, 5), device=device), torch.ones((1, 3, 4, 5), device=device)
    loss, per_layer, (dx,) = torch.ops.perceptual_ops.feature_loss_with_gradient([x], [y], [1.0], "mse", 0.0)
    assert (loss.shape, per_layer.shape, dx.shape) == ((0,), (1, 0), x.shape)
    values, dx = torch.ops.perceptual_ops.total_variation_with_gradient(x, "l1")
    assert (values.shape, dx.shape) == ((0,), x.shape)


def test_a_wrong_upstream_is_refused(native: str, library: None, device: str) -> None:
    x = torch.ones((2, 3, 4, 5), device=device)
    for grad in (torch.ones(3, device=device), torch.ones(2, dtype=torch.float64, device=device)):
        with pytest.raises(RuntimeError, match="grad: expected"):
            torch.ops.perceptual_ops.feature_loss_with_gradient([x], [x], [1.0], "mse", 0.0, grad)
        with pytest.raises(RuntimeError, match="grad: expected"):
            torch.ops.perceptual_ops.total_variation_with_gradient(x, "l1", grad)


@pytest.mark.parametrize("distance", DISTANCES)
def test_nan_stays_in_its_sample(distance: str, native: str, device: str) -> None:
    maps = layers_of((2, 3, 6, 8), torch.float32, device)
    maps[1][1, 0, 0, 0] = torch.nan
    loss, per_layer, _ = feature_loss(maps, distance, None)
    assert loss.isnan().tolist() == [False, True]
    assert per_layer.isnan().tolist() == [[False, False], [False, True], [False, False]]


def one_pass(x: Tensor, y: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    loss, per_layer, gradients = torch.ops.perceptual_ops.feature_loss_with_gradient(
        [x, y], [y, x], [1.0, 0.5], "l1", 0.0
    )
    values, gradient = torch.ops.perceptual_ops.total_variation_with_gradient(x, "l2_squared", grad)
    return loss + values, per_layer * 2, gradient + gradients[0], gradients[1]


@pytest.mark.parametrize(("compiler", "dynamic"), [("aot_eager", False), ("aot_eager", True), ("inductor", True)])
def test_compile(compiler: str, dynamic: bool, native: str, device: str) -> None:
    compiled = torch.compile(one_pass, fullgraph=True, dynamic=dynamic, backend=compiler)
    for batch, size in ((2, 8), (3, 11)) if dynamic else ((2, 8),):
        x = random_map((batch, 4, size, size + 1), torch.float32, device, 1)
        x = x.contiguous(memory_format=torch.channels_last)
        y, grad = random_map(tuple(x.shape), x.dtype, device, 2), upstream_of(x)
        torch.testing.assert_close(compiled(x, y, grad), one_pass(x, y, grad))


def test_opcheck(native: str, device: str) -> None:
    x = random_map((2, 3, 4, 5), torch.float32, device, 1)
    y = random_map((1, 3, 4, 5), torch.float32, device, 2)
    nhwc, grad = x.contiguous(memory_format=torch.channels_last), upstream_of(x)
    feature, variation = (
        getattr(torch.ops.perceptual_ops, f"{name}_with_gradient").default
        for name in ("feature_loss", "total_variation")
    )
    opcheck(feature, ([x, nhwc], [y, x], [1.0, 0.5], "charbonnier", 0.1, grad))
    opcheck(feature, ([nhwc], [y], [1.0], "mse", 0.0))
    opcheck(variation, (nhwc, "l1", grad))
    opcheck(variation, (x, "l2_squared"))

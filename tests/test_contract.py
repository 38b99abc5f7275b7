"""What torch expects of an operator: gradcheck, opcheck, torch.compile, export, double backward, 64-bit offsets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from maps import random_map
from operators import OPERATORS, Operator, run_native, run_reference
from torch import Tensor
from torch.library import opcheck

import perceptual_ops as po
from perceptual_ops import _native

operators = pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)


def small_maps(device: str) -> list[Tensor]:
    shapes = [(2, 3, 4, 5), (2, 4, 2, 3)]
    return [random_map(shape, torch.float64, device, i).requires_grad_() for i, shape in enumerate(shapes)]


@operators
def test_gradcheck(operator: Operator, backend: str, device: str) -> None:
    maps = small_maps(device)
    assert torch.autograd.gradcheck(lambda *xs: operator.run(po, list(xs), backend=backend), maps)


@operators
def test_second_derivatives(operator: Operator, native: str, device: str) -> None:
    """A gradient of a gradient is the reference's; torch alone would pass zeros on."""
    maps = small_maps(device)
    if operator.smooth:
        assert torch.autograd.gradgradcheck(lambda *xs: run_native(operator, list(xs)), maps)

    def second(run) -> list[Tensor]:
        first = torch.autograd.grad(run(operator, maps).sum(), maps, create_graph=True, materialize_grads=True)
        squares = sum((gradient**2).sum() for gradient in first)
        return list(torch.autograd.grad(squares, maps, materialize_grads=True))

    torch.testing.assert_close(second(run_native), second(run_reference))


def metrics(maps: list[Tensor], targets: list[Tensor], **keywords: str) -> Tensor:
    """The perceptual metrics and a norm of the maps of one."""
    weights = [torch.ones_like(x[0, :, 0, 0].detach()) for x in maps]
    pixels = po.lpips_distance(maps, targets, weights, 1e-8, True, spatial=True, **keywords)
    whole = po.lpips_distance(maps, targets, weights, **keywords) + po.dists_distance(
        maps, targets, weights, weights, **keywords
    )
    return whole.sum() + torch.stack([each.square().sum() for each in pixels]).sum()


def test_first_gradient_is_the_same_with_a_graph(native: str, device: str) -> None:
    """Maps that are computed from each other, as a network's layers are, and one map given twice."""
    x = random_map((2, 3, 6, 6), torch.float64, device, 1).requires_grad_()

    def gradient(create_graph: bool) -> Tensor:
        deeper = torch.tanh(x * 1.5)
        maps = [x, deeper, deeper, deeper.square()]
        targets = [random_map((1, 3, 6, 6), torch.float64, device, 2)] * 3 + [deeper]
        grams = [random_map((1, 3, 3), torch.float64, device, 3)] * 4
        loss = po.style_loss(maps, grams, backend=native) + po.feature_loss(maps, targets, backend=native)
        loss = loss + po.gram_matrix(deeper, backend=native).square().sum()
        loss = loss + po.channel_statistics(deeper, backend=native).square().sum()
        loss = loss + metrics(maps, targets, backend=native)
        return torch.autograd.grad(loss + po.total_variation(deeper, backend=native), x, create_graph=create_graph)[0]

    torch.testing.assert_close(gradient(True), gradient(False))


def test_forward_mode_runs_the_reference(library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch would give a tangent of zero; here the reference runs, and says so."""
    monkeypatch.setattr(_native, "_told", set())
    x, y, tangent = (random_map((2, 3, 4, 5), torch.float64, "cpu", seed) for seed in range(3))

    def loss(x: Tensor) -> Tensor:
        loss = po.feature_loss([x], [y]) + po.gram_matrix(x).square().sum() + po.total_variation(x)
        return loss + po.channel_statistics(x).square().sum() + metrics([x], [y])

    with pytest.warns(RuntimeWarning, match="no forward-mode derivative"):
        _, derivative = torch.func.jvp(loss, (x,), (tangent,))
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(derivative, (torch.autograd.grad(loss(leaf), leaf)[0] * tangent).sum())
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match="no forward-mode derivative"):
        po.gram_matrix(torch.autograd.forward_ad.make_dual(x, tangent), backend="native")


def operator_calls(device: str) -> dict[str, tuple]:
    x = random_map((2, 3, 4, 5), torch.float32, device, 1).requires_grad_()
    y = random_map((1, 3, 4, 5), torch.float32, device, 2).requires_grad_()
    gram, upstream = random_map((2, 3, 3), torch.float32, device, 3), torch.ones(2, device=device)
    nhwc = x.detach().contiguous(memory_format=torch.channels_last)
    maps = [x, nhwc.requires_grad_()]
    targets, channels, pixels = [y, y.expand(2, -1, -1, -1)], [gram[0, 0].abs()] * 2, [gram.mean() * y[:, :1].detach()]
    plain = ([nhwc.detach()], [y.detach()], channels[:1])
    return {
        "gram_matrix": (x, "chw"),
        "gram_matrix_backward": (gram, nhwc.detach(), "hw"),
        "style_loss": (maps, [gram, gram], [1.0, 0.5], "chw", "huber", 1.0),
        "style_loss_backward": (None, [x.detach(), nhwc.detach()], [gram, gram], [None, x.detach()]),
        "channel_statistics": (maps,),
        "channel_statistics_backward": (
            upstream,
            [x.detach(), nhwc.detach()],
            [gram[:, :2].abs() + 1] * 2,
            [gram[:, 1:]] * 2,
            [20, 50],
            [None, x.detach()],
        ),
        "feature_loss": (maps, targets, [1.0, 0.5], "charbonnier", 0.1),
        "feature_loss_backward": (upstream, [nhwc.detach()], [y.detach()], [0.5], "l1", 0.0),
        "total_variation": (x, "l2_squared"),
        "total_variation_backward": (upstream, nhwc.detach(), "l1"),
        "lpips_distance": (maps, targets, channels, 1e-10, False),
        "lpips_distance_backward": (upstream, *plain, 1e-10, False, True, True),
        "lpips_distance_with_gradient": (*plain, 1e-8, True, upstream, True, False),
        "lpips_map": (maps, targets, channels, 1e-8, True),
        "lpips_map_backward": ([pixels[0].expand(2, -1, -1, -1)], *plain, 1e-8, True, False, True),
        "dists_distance": (maps, targets, channels, channels),
        "dists_distance_backward": (upstream, *plain, channels[:1], [gram.new_ones(2, 6, 3)], True, True),
        "loss_scale": (upstream, upstream, upstream[0], 4.0, [upstream] * 2, None, 9.0),
        "l2_pool": (nhwc.detach(),),
        "l2_pool_backward": (random_map((2, 3, 2, 3), torch.float32, device, 5), nhwc.detach()),
    }


@pytest.mark.parametrize("name", list(operator_calls("cpu")))
def test_opcheck(name: str, native: str, device: str) -> None:
    opcheck(getattr(torch.ops.perceptual_ops, name).default, operator_calls(device)[name])


def every_operator(x: Tensor, y: Tensor, gram: Tensor, backend: str = "auto") -> Tensor:
    loss = po.style_loss([x], [gram], distance="charbonnier", backend=backend)
    loss = loss + po.feature_loss([x], [y], distance="huber", backend=backend)
    loss = loss + po.total_variation(x, "l2", backend=backend) + po.gram_matrix(x, backend=backend).square().sum()
    loss = loss + po.channel_statistics(x, backend=backend).square().sum()
    return loss + metrics([x], [y], backend=backend)


@pytest.mark.parametrize(("compiler", "dynamic"), [("aot_eager", False), ("aot_eager", True), ("inductor", True)])
def test_compile(compiler: str, dynamic: bool, native: str, device: str) -> None:
    compiled = torch.compile(every_operator, fullgraph=True, dynamic=dynamic, backend=compiler)
    for batch, size in ((2, 8), (3, 11)) if dynamic else ((2, 8),):
        x = random_map((batch, 4, size, size + 1), torch.float32, device, 1)
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        y, gram = random_map(tuple(x.shape), x.dtype, device, 2), random_map((1, 4, 4), x.dtype, device, 3)
        expected, actual = every_operator(x, y, gram), compiled(x, y, gram)
        torch.testing.assert_close(actual, expected)
        gradient, compiled_gradient = torch.autograd.grad(expected, x)[0], torch.autograd.grad(actual, x)[0]
        torch.testing.assert_close(compiled_gradient, gradient)
        assert compiled_gradient.stride() == gradient.stride()


@pytest.mark.parametrize("backend", ["auto", "native"])
def test_export(backend: str, native: str, device: str) -> None:
    """A program holds operators of this library only where they were insisted on."""

    class Module(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor, gram: Tensor) -> Tensor:
            return every_operator(x, y, gram, backend)

    x, y = random_map((2, 4, 6, 6), torch.float32, device, 1), random_map((2, 4, 6, 6), torch.float32, device, 2)
    gram = random_map((1, 4, 4), torch.float32, device, 3)
    batch = torch.export.Dim("batch", min=2, max=16)
    shapes = {"x": {0: batch}, "y": {0: batch}, "gram": None}
    program = torch.export.export(Module(), (x, y, gram), dynamic_shapes=shapes)
    assert any("perceptual_ops" in str(node.target) for node in program.graph.nodes) == (backend == "native")
    more = torch.cat([x, y]), torch.cat([y, y]), gram
    torch.testing.assert_close(program.module()(*more), every_operator(*more))


@operators
def test_strides_beyond_32_bits(operator: Operator, native: str, device: str) -> None:
    """Two samples 2^31 elements apart, in memory of which only they are ever touched."""
    apart = 2**31 + 3
    memory = torch.empty(apart + 1000, dtype=torch.float16, device=device)
    view = memory.as_strided((2, 3, 4, 5), (apart, 20, 5, 1))
    dense = random_map((2, 3, 4, 5), torch.float16, device, 1)
    view.copy_(dense)
    torch.testing.assert_close(run_native(operator, [view]), run_native(operator, [dense]), rtol=1e-6, atol=0)


def test_more_than_2_to_the_31_elements(library: None, native: str, device: str) -> None:
    """The same sample 2^15 + 1 times, by a stride of 0."""
    x = random_map((1, 64, 32, 32), torch.bfloat16, device, 1)
    y = random_map((1, 64, 32, 32), torch.bfloat16, device, 2)
    weights = [torch.ones(64, device=device)]
    losses: list[Callable[[Tensor], Tensor]] = [
        lambda x: po.feature_loss([x], [y], reduction="none", backend=native),
        lambda x: po.lpips_distance([x], [y], weights, backend=native),
        lambda x: po.dists_distance([x], [y], weights, weights, backend=native),
        lambda x: po.channel_statistics(x, backend=native)[:, 1, 0],
    ]
    for loss in losses:
        assert torch.equal(loss(x.expand(2**15 + 1, -1, -1, -1)), loss(x).expand(2**15 + 1))

"""loss_head, value and gradient of a head in one call: its numbers, memory layouts, contract and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from maps import DTYPES, LAYOUTS, assert_accurate, random_map
from operators import DISTANCES, target_gram, target_map, wide
from torch import Tensor
from torch.library import opcheck

import perceptual_ops as po
from perceptual_ops import ops

PLACES = {"both": ([0, 1, 2], [1, 2]), "apart": ([0, 2], [1]), "style": ([0, 1, 2], []), "content": ([], [0, 1, 2])}


@dataclass(frozen=True)
class Head:
    """The arguments of loss_head by name, in order."""

    features: list[Tensor]
    style_layers: list[int]
    target_grams: list[Tensor]
    style_weights: list[float]
    content_layers: list[int]
    targets: list[Tensor]
    content_weights: list[float]
    normalize: str = "chw"
    distances: tuple[str, str] = ("mse", "mse")
    grad: Tensor | None = None
    parameters: dict[str, float] = field(default_factory=lambda: {"charbonnier": 0.1, "huber": 0.3})

    def arguments(self) -> tuple[Any, ...]:
        style, content = self.distances
        of_style = (self.style_layers, self.target_grams, self.style_weights, self.normalize)
        of_content = (self.content_layers, self.targets, self.content_weights)
        style_settings, content_settings = ((name, self.parameters.get(name, 0.0)) for name in (style, content))
        return (self.features, *of_style, *style_settings, *of_content, *content_settings, self.grad)

    def run(self, backend: str) -> list[Tensor]:
        style, content, gradients = ops.loss_head(*self.arguments(), backend=backend)
        return [style, content, *gradients]


def head_of(features: list[Tensor], places: str = "both") -> Head:
    style_layers, content_layers = PLACES[places]
    return Head(
        features,
        style_layers,
        [target_gram(features[i], i) for i in style_layers],
        [0.5 + i for i in style_layers],
        content_layers,
        [target_map(features[i], i) for i in content_layers],
        [1.5 + i for i in content_layers],
    )


def features_of(batch: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    shapes = [(batch, 5, 7, 9), (batch, 70, 8, 6), (batch, 3, 1, 1)]
    return [random_map(shape, dtype, device, i) for i, shape in enumerate(shapes)]


def upstream_of(x: Tensor) -> Tensor:
    return torch.tensor([0.3, -2.0, 1.7], device=x.device, dtype=wide(x))[: x.shape[0]]


def assert_agrees(head: Head, native: str) -> None:
    """By the policy, with the reference in the maps' dtype, rounded once, as the naive run."""
    doubles = {name: [x.double() for x in getattr(head, name)] for name in ("features", "target_grams", "targets")}
    exact = replace(head, **doubles, grad=None if head.grad is None else head.grad.double()).run("reference")
    for ours, reference, truth in zip(head.run(native), head.run("reference"), exact, strict=True):
        assert (ours.dtype, ours.stride()) == (reference.dtype, reference.stride())
        if ours.numel() > 0:
            assert_accurate(ours, reference, truth)


@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_the_reference(dtype: torch.dtype, batch: int, places: str, native: str, device: str) -> None:
    head = head_of(features_of(batch, dtype, device), places)
    assert_agrees(head, native)
    assert_agrees(replace(head, grad=upstream_of(head.features[0]), normalize="hw"), native)


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances(distance: str, native: str, device: str) -> None:
    head = head_of(features_of(3, torch.float32, device))
    assert_agrees(replace(head, distances=(distance, "mse")), native)
    assert_agrees(replace(head, distances=("huber", distance)), native)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts(layout: str, dtype: torch.dtype, native: str, device: str) -> None:
    """The targets' layout is another one than the features'."""
    change: Callable[[Tensor], Tensor] = LAYOUTS[layout]
    head = head_of(features_of(3, dtype, device))
    assert_agrees(replace(head, features=[change(x) for x in head.features]), native)
    assert_agrees(replace(head, targets=[change(x) for x in head.targets]), native)


def test_many_pixels(native: str, device: str) -> None:
    """Several blocks of pixels, a tail, and both terms in each."""
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = random_map((2, 40, 93, 101), torch.bfloat16, device).contiguous(memory_format=memory_format)
        head = Head([x], [0], [target_gram(x, 0)], [2e3], [0], [target_map(x, 1)], [1.0])
        assert_agrees(head, native)


def test_expanded_batch(native: str, device: str) -> None:
    head = head_of([x.expand(3, -1, -1, -1) for x in features_of(1, torch.float32, device)])
    assert_agrees(replace(head, grad=upstream_of(head.features[0])), native)


def test_is_the_gradient_of_the_two_losses(native: str, device: str) -> None:
    """The operator and the differentiable functions are one loss."""
    features = [x.requires_grad_() for x in features_of(3, torch.float64, device)]
    head = head_of(features)
    layers = [features[i] for i in head.content_layers]
    loss = po.style_loss(features, head.target_grams, head.style_weights, reduction="none")
    loss = loss + po.feature_loss(layers, head.targets, head.content_weights, reduction="none")
    upstream = upstream_of(features[0])
    expected = torch.autograd.grad(loss, features, upstream)
    detached = [x.detach() for x in features]
    style, content, *gradients = replace(head, features=detached, grad=upstream).run(native)
    torch.testing.assert_close(gradients, list(expected))
    weights = torch.tensor(head.style_weights, device=device).double(), torch.tensor(head.content_weights).to(style)
    torch.testing.assert_close(weights[0] @ style + weights[1] @ content, loss.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_every_time(dtype: torch.dtype, native: str, device: str) -> None:
    x = random_map((2, 70, 33, 31), dtype, device, 1)
    head = Head([x], [0], [target_gram(x, 0)], [1e3], [0], [target_map(x, 0)], [1.0])
    first = head.run(native)
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, head.run(native), strict=True))


@pytest.mark.parametrize("places", PLACES)
def test_opcheck(places: str, native: str, device: str) -> None:
    features = features_of(3, torch.float32, device)
    features[1] = features[1].contiguous(memory_format=torch.channels_last)
    head = head_of(features, places)
    for grad in (None, upstream_of(features[0])):
        opcheck(torch.ops.perceptual_ops.loss_head.default, replace(head, grad=grad).arguments())


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic: bool, native: str, device: str) -> None:
    head = head_of(features_of(3, torch.float32, device))

    def run(features: list[Tensor], grad: Tensor) -> list[Tensor]:
        return [2 * x for x in replace(head, features=features, grad=grad).run("auto")]

    grad = upstream_of(head.features[0])
    compiled = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    torch.testing.assert_close(compiled(head.features, grad), run(head.features, grad))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no layers": ({"features": []}, "features: expected at least one layer"),
    "dtypes": ({"features": [torch.rand(3, 5, 7, 9), torch.rand(3, 4, 2, 2).half()]}, "features: expected one dtype"),
    "layer twice": ({"style_layers": [0, 0]}, "style_layers: expected rising indices, got 0 after 0"),
    "layer unsorted": ({"style_layers": [1, 0]}, "style_layers: expected rising indices, got 0 after 1"),
    "layer beyond": ({"content_layers": [2]}, "content_layers: expected indices below 2, got 2"),
    "layer negative": ({"content_layers": [-1]}, "content_layers: expected indices below 2, got -1"),
    "layer unused": (
        {"style_layers": [0], "style_weights": [1.0]},
        "features: expected every layer .* got 1 in neither",
    ),
    "style weights": ({"style_weights": [1.0]}, "style_weights: expected 2, got 1"),
    "content weights": ({"content_weights": [1.0, 2.0]}, "content_weights: expected 1, got 2"),
    "grams": ({"target_grams": []}, "target_grams: expected 2 layers, got 0"),
    "gram size": ({"target_grams": [torch.rand(1, 5, 5)] * 2}, r"target_grams\[1\]: expected \(N, 4, 4\)"),
    "gram dtype": ({"target_grams": [torch.rand(1, 5, 5).double()] * 2}, r"target_grams\[0\]: expected float32"),
    "targets": ({"targets": []}, "targets: expected 1 layers, got 0"),
    "target size": ({"targets": [torch.rand(3, 5, 9, 7)]}, r"targets\[0\]: expected the shape"),
    "target batch": ({"targets": [torch.rand(2, 5, 7, 9)]}, r"targets\[0\]: expected a batch of 1 or 3, got 2"),
    "target dtype": ({"targets": [torch.rand(3, 5, 7, 9).half()]}, r"targets\[0\]: expected the dtype"),
    "grad size": ({"grad": torch.ones(2)}, r"grad: expected \(3\)"),
    "grad dtype": ({"grad": torch.ones(3).half()}, "grad: expected float32"),
    "normalize": ({"normalize": "c"}, "normalize: expected none, hw or chw, got c"),
    "distance": ({"distances": ("mse", "l2")}, "distance: expected mse, .* got l2"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name: str, library: None) -> None:
    """The operator refuses by itself: nobody has to check in Python for it to be safe."""
    features = [torch.rand(3, 5, 7, 9), torch.rand(3, 4, 2, 2)]
    grams = [torch.rand(1, 5, 5), torch.rand(3, 4, 4)]
    head = Head(features, [0, 1], grams, [1.0, 2.0], [0], [torch.rand(1, 5, 7, 9)], [1.0])
    head.run("native")
    changes, message = BAD[name]
    if name == "layer unused":
        changes = {**changes, "target_grams": grams[:1]}
    with pytest.raises(RuntimeError, match=message):
        torch.ops.perceptual_ops.loss_head(*replace(head, **changes).arguments())

"""What the lean engine makes in one launch, for all layers or both images: the same numbers as one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import metrics
import pytest
import torch
from perceptual import images, make
from torch import Tensor, nn

import perceptual_ops as po
from perceptual_ops.engine import joined_runs, metric_head, perceptual_head, stages, styles
from perceptual_ops.engine.custom_op import written
from perceptual_ops.engine.metric_head import MetricHead
from perceptual_ops.engine.stages import Forward
from perceptual_ops.engine.terms import Part, Terms

pytestmark = pytest.mark.usefixtures("library")


class Kept:
    """The operators, with the number of maps that were kept and pooled at once."""

    def __init__(self) -> None:
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        self.count += name == "bias_relu_pool_"
        return getattr(torch.ops.perceptual_ops, name)


class Calls:
    """The operators, with the number of layers of each call."""

    def __init__(self) -> None:
        self.of_values: list[int] = []
        self.of_gradients: list[int] = []
        self.of_both: list[int] = []  # layers with a content gradient, to which theirs is added

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.ops.perceptual_ops, name)

    def style_loss(self, features: Sequence[Tensor], *arguments: Any) -> Any:
        self.of_values.append(len(features))
        return torch.ops.perceptual_ops.style_loss(features, *arguments)

    def style_loss_backward(self, grad: Tensor | None, features: Sequence[Tensor], *arguments: Any) -> Any:
        self.of_gradients.append(len(features))
        self.of_both.append(sum(other is not None for other in arguments[-1]))
        return torch.ops.perceptual_ops.style_loss_backward(grad, features, *arguments)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    found = Calls()
    monkeypatch.setattr(styles, "operators", found)
    return found


class Narrowing(nn.Module):
    """Two maps of different dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second.bfloat16()(self.first(x).bfloat16())


def of_dtypes(**settings: Any) -> po.PerceptualLoss:
    torch.manual_seed(0)
    layers = ["first", "second"]
    return po.PerceptualLoss(Narrowing(), content_layers=None, style_layers=layers, **settings)


STYLES = ["relu1_1", "pool1", "conv2_1"]


def value_and_gradient(loss: nn.Module, wanted: bool = True) -> list[Tensor]:
    x, y = images(2, 24).requires_grad_(wanted), images(2, 24, 1)
    value, terms = loss(x, y if loss.content_layers else None, images(1, 20, 2), return_terms=True)
    return [value.detach(), *terms.values(), *(torch.autograd.grad(value.sum(), x) if wanted else ())]


@pytest.mark.parametrize(
    ("at_once", "of_gradients"), [(perceptual_head.AT_ONCE, [3]), (0, [1, 1, 1])], ids=["small maps", "large maps"]
)
def test_style_of_all_layers_at_once(
    at_once: int, of_gradients: list[int], calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory allows it, on a GPU; on a CPU gradients come one by one."""
    loss = make(content_layers=["relu1_1", "relu2_1"], style_layers=STYLES, tv_weight=0.1, reduction="none")
    expected = value_and_gradient(loss)
    assert calls.of_values == [3] and calls.of_gradients == [1, 1, 1] and calls.of_both == [0, 0, 1]
    monkeypatch.setattr(perceptual_head, "launches_cost", lambda device: True)
    monkeypatch.setattr(perceptual_head, "AT_ONCE", at_once)
    found = value_and_gradient(loss)
    assert calls.of_values == [3, 3] and calls.of_gradients[3:] == of_gradients and sum(calls.of_both[3:]) == 1
    assert all(torch.equal(ours, plain) for ours, plain in zip(found, expected, strict=True))


def test_bounds_of_style_gradients_hold() -> None:
    """Of layers of different sizes, made together."""
    style = Part(("relu1_1", "relu2_1"), (3.0, 1.5), "mse", 0.0)
    terms = Terms(Part((), (), "mse", 0.0), style, "chw", 0.0)
    maps = {
        layer: 3 * torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(size))
        for layer, channels, size in (("relu1_1", 5, 9), ("relu2_1", 12, 4))
    }
    grams = [torch.eye(x.shape[1])[None] for x in maps.values()]
    head = perceptual_head.PerceptualHead(terms, torch.float32, [], grams, True, False)
    for layer, x in maps.items():
        head.on_tap(layer, x)
    head.terms()
    for layer in reversed(maps):
        bound = head.bound(layer)
        largest = head.gradient(layer, None).abs().amax((1, 2, 3))
        assert (largest <= 1.0001 * bound).all() and (bound < 20 * largest).all()


def test_a_map_goes_when_nothing_waits_for_it(calls: Calls) -> None:
    """Without a gradient, style values are made layer by layer."""
    value_and_gradient(make(content_layers=None, style_layers=STYLES), wanted=False)
    assert calls.of_values == [1, 1, 1] and not calls.of_gradients


def test_maps_of_different_dtypes(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual_head, "launches_cost", lambda device: True)
    found, expected = value_and_gradient(of_dtypes()), value_and_gradient(of_dtypes(engine="autograd"))
    assert calls.of_values == calls.of_gradients == [1, 1]
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=0.02, atol=0.02 * float(plain.abs().max()))


TAPS = {
    "ReLUs": {"content_layers": ["relu2_1"], "style_layers": ["relu1_1", "relu2_1", "relu3_1"]},
    "all of a block": {"content_layers": ["conv1_1", "relu1_1", "pool1"], "style_layers": ["relu2_1"]},
    "no ReLU": {"content_layers": ["conv2_1"], "style_layers": ["pool1"]},
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("pooling", ["max", "average", "blur", "l2"])
@pytest.mark.parametrize("taps", TAPS)
def test_a_map_that_is_kept_and_pooled(taps: str, pooling: str, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, on a GPU: the bits are those of one after the other."""
    layers = TAPS[taps]
    trunk = po.load_network("vgg11", "random", layers=[*chain(*layers.values())], pooling=pooling)
    kept, found = Kept(), []
    monkeypatch.setattr(stages, "operators", kept)
    monkeypatch.setattr(stages, "bias_is_a_pass", lambda device: bias)
    # An average has no codes that say what passes: its ReLU has signs.
    expected = pooling == "average" or (pooling != "l2" and taps != "no ReLU")
    for dtype in (torch.float32, torch.bfloat16):
        loss = po.PerceptualLoss(trunk, compute_dtype=dtype, reduction="none", **layers)
        for at_once in (False, True):
            monkeypatch.setattr(stages, "launches_cost", lambda device, at_once=at_once: at_once)
            kept.count = 0
            found.append(value_and_gradient(loss))
            assert (kept.count > 0) == (at_once and expected)
        assert all(torch.equal(ours, plain) for ours, plain in zip(*found[-2:], strict=True))


PAIRS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "LPIPS": ("alex", 70, {}),
    "fp16": ("alex", 70, {"compute_dtype": "float16"}),
    "chunks": ("alex", 70, {"chunk_size": 1}),
    "DISTS": ("dists", 17, {}),
}


@pytest.mark.parametrize("wanted", ["output", "target", "both", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["vgg16", "dists"])
def test_distances_of_all_layers_at_once(
    name: str, dtype: torch.dtype, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of small maps, on a GPU; the bits are those of one after the other."""
    loss = metrics.make(name, reduction="none", compute_dtype=dtype)
    seen, found = [], []
    measure = MetricHead._measure
    monkeypatch.setattr(
        MetricHead, "_measure", lambda head, leave=False: seen.append(len(head._waiting)) or measure(head, leave)
    )
    for at_once, most in ((False, perceptual_head.AT_ONCE), (True, perceptual_head.AT_ONCE), (True, 0)):
        monkeypatch.setattr(metric_head, "launches_cost", lambda device, at_once=at_once: at_once)
        monkeypatch.setattr(metric_head, "AT_ONCE", most)
        seen.clear()
        found.append(distance_and_gradients(loss, 19, wanted))
        assert seen == [5] if at_once and most else seen == [1] * 5 + [0]
    assert all(torch.equal(ours, plain) for others in found[1:] for ours, plain in zip(others, found[0], strict=True))


def distance_and_gradients(loss: nn.Module, size: int, wanted: str) -> list[Tensor]:
    x, y = (
        images(2, size, seed).requires_grad_(wanted in (who, "both")) for seed, who in enumerate(("output", "target"))
    )
    value = loss(x, y)
    leaves = [image for image in (x, y) if image.requires_grad]
    return [value.detach(), *(torch.autograd.grad(value.sum(), leaves) if leaves else ())]


@pytest.mark.parametrize("wanted", ["output", "target", "both", "none"])
@pytest.mark.parametrize("kind", PAIRS)
def test_both_images_at_once(kind: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones, on a GPU; large ones and those of a CPU go side by side."""
    name, size, settings = PAIRS[kind]
    loss = metrics.make(name, reduction="none", **settings)
    runs, found = [], []
    run_stage = Forward.run_stage
    monkeypatch.setattr(Forward, "run_stage", lambda *arguments: runs.append(arguments) or run_stage(*arguments))
    for at_once, pixels in ((False, joined_runs.FEW_PIXELS), (True, joined_runs.FEW_PIXELS), (True, size)):
        monkeypatch.setattr(joined_runs, "launches_cost", lambda device, at_once=at_once: at_once)
        monkeypatch.setattr(joined_runs, "FEW_PIXELS", pixels)
        runs.clear()
        found.append([*distance_and_gradients(loss, size, wanted), torch.tensor(len(runs))])
    (*plain, count), (*joined, fewer), (*large, same) = found
    assert count == same == 2 * fewer
    for ours, others, expected in zip(joined, large, plain, strict=True):
        assert torch.equal(others, expected)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_gradient_of_a_whole_batch_is_not_copied() -> None:
    """Unless it is laid out as the fake does not say."""
    whole, made = torch.rand(2, 3, 4, 5), torch.zeros(2, 3, 4, 5)
    assert written(made, slice(0, 2), whole) is whole and written(made, slice(0, 2), None) is made
    assert written(made, slice(0, 2), whole.contiguous(memory_format=torch.channels_last)) is made
    assert torch.equal(made, whole)
    assert written(made, slice(1, 2), whole[:1]) is made and torch.equal(made[1], whole[0])

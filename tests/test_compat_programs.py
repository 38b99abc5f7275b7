"""The drop-ins as programs (torch.export, torch.jit.trace): saved and loaded, without an operator of this library."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from peer_torchvision import import_torchvision
from perceptual import images
from torch import Tensor, nn

from perceptual_ops.compat import basicsr, dists, lpips, lpips_pytorch, piq, piqa, taming

import_torchvision()  # before ours looks for torchmetrics, see test_compat_torchmetrics
torchmetrics = importlib.import_module("perceptual_ops.compat.torchmetrics")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")


def encoder() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))


class Call(nn.Module):
    """A function, or a loss that is called with more than images, as a module of images alone."""

    def __init__(self, function: Callable[..., Tensor], **settings: Any) -> None:
        super().__init__()
        self.function, self.settings = function, settings

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.function(x, y, **self.settings)


SHALLOW = {"layers": ("relu1_1", "conv1_2"), "weights": [0.5, 1.0], "network_weights": "random"}
content, style = partial(piq.ContentLoss, **SHALLOW), partial(piq.StyleLoss, **SHALLOW)
perceptual = partial(basicsr.PerceptualLoss, {"relu1_1": 0.5, "conv2_1": 1.0}, "vgg11", weights="random")
MAKERS: dict[str, Callable[[], nn.Module]] = {  # each is called with images and their targets
    "piq.ContentLoss": content,
    "piq.ContentLoss, one a sample": partial(content, reduction="none"),
    "piq.ContentLoss, normalized": partial(content, normalize_features=True, distance="mae"),
    "piq.ContentLoss, chunks": partial(content, chunk_size=4),
    "piq.ContentLoss, own network": lambda: piq.ContentLoss(encoder(), ("0", "2"), [1, 2]),
    "piq.StyleLoss": style,
    "piq.LPIPS": partial(piq.LPIPS, weights="random"),
    "piq.LPIPS, mae": partial(piq.LPIPS, weights="random", distance="mae", reduction="sum"),
    "piq.DISTS": partial(piq.DISTS, weights="random", resize=False, reduction="sum"),
    "piq.DISTS, resized": partial(piq.DISTS, weights="random"),
    "piq.TVLoss": piq.TVLoss,
    "basicsr.PerceptualLoss": perceptual,
    "basicsr.PerceptualLoss, style": partial(perceptual, perceptual_weight=0.0, style_weight=2.0),
    "basicsr.PerceptualLoss, both": partial(perceptual, style_weight=2.0),
    "basicsr.PerceptualLoss, fro": partial(perceptual, criterion="fro", range_norm=True),
    "basicsr.WeightedTVLoss": basicsr.WeightedTVLoss,
    "lpips.LPIPS": partial(lpips.LPIPS, weights="random"),
    "lpips.LPIPS, spatial": partial(lpips.LPIPS, weights="random", spatial=True),
    "lpips.LPIPS, normalize": lambda: Call(lpips.LPIPS(weights="random"), normalize=True),
    "taming.LPIPS": partial(taming.LPIPS, weights="random"),
    "lpips_pytorch.LPIPS": partial(lpips_pytorch.LPIPS, weights="random"),
    "lpips_pytorch.lpips": lambda: Call(lpips_pytorch.lpips, weights="random"),
    "piqa.LPIPS": partial(piqa.LPIPS, weights="random"),
    "dists.DISTS": lambda: Call(dists.DISTS(weights="random"), require_grad=True, batch_average=True),
    "torchmetrics, lpips": lambda: Call(
        torchmetrics.learned_perceptual_image_patch_similarity, weights="random", normalize=True
    ),
    "torchmetrics, dists": lambda: Call(
        torchmetrics.deep_image_structure_and_texture_similarity, weights="random", reduction="sum"
    ),
}
ALONE = ("piq.TVLoss",)  # called with images only
# Of these the program takes any batch and size, one for each way through the code; of the others any batch of one size,
# since the arithmetic of sizes is most of what an export takes.
ANY_SIZE = (
    "piq.ContentLoss", "piq.StyleLoss", "piq.DISTS, resized", "piq.TVLoss", "basicsr.PerceptualLoss, both",
    "basicsr.WeightedTVLoss", "lpips.LPIPS, spatial",
)  # fmt: skip
AXES = {name: (0, 2, 3) for name in ANY_SIZE}
AXES["piq.ContentLoss, chunks"] = (2, 3)  # the chunks are counted
AXES["piq.DISTS, resized"] = (0, 2)  # sizes of maps that are resized cost most
AXES["lpips.LPIPS, spatial"] = (2, 3)
# The operators of their programs are those of lpips.LPIPS and piq.DISTS, which are saved: half of what a test takes.
NOT_SAVED = (
    "lpips.LPIPS, normalize", "taming.LPIPS", "lpips_pytorch.LPIPS", "lpips_pytorch.lpips", "piqa.LPIPS", "dists.DISTS",
    "torchmetrics, lpips", "torchmetrics, dists",
)  # fmt: skip
EXAMPLE = images(2, 52), images(2, 52, seed=1)
Found = tuple[Tensor, Tensor]


def value_and_gradient(loss: Callable[..., Any], x: Tensor, *others: Tensor) -> Found:
    x = x.clone().requires_grad_()
    result = loss(x, *others)
    parts = result if isinstance(result, tuple) else (result,)
    value = torch.stack([part.sum() for part in parts if part is not None])
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


def assert_alike(found: Found, expected: Found) -> None:
    """Of the gradient single pixels may differ, where a ReLU's input is 0 but for rounding."""
    torch.testing.assert_close(found[0], expected[0])
    assert (found[1] - expected[1]).norm() < 0.02 * expected[1].norm()


@pytest.mark.parametrize("name", MAKERS)
def test_export(name: str) -> None:
    """Value and gradient of a program, saved and loaded, for another batch or size than it was made with.

    The example is large enough for a map of more than one pixel in the deepest layer, which export takes for fixed.
    """
    loss, count = MAKERS[name](), 1 if name in ALONE else 2
    axes = AXES.get(name, (0,))
    sides = ({axis: torch.export.Dim.DYNAMIC for axis in axes},) * count
    batch, height, width = (new if axis in axes else old for axis, old, new in ((0, 2, 3), (2, 52, 60), (3, 55, 63)))
    other = [images(3, 60, seed=seed)[:batch, :, :height, :width] for seed in (4, 5)]
    program = torch.export.export(loss, EXAMPLE[:count], dynamic_shapes=sides, strict=False)
    assert not [node for node in program.graph.nodes if str(node.target).startswith("perceptual_ops.")]
    if name not in NOT_SAVED:
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        program = torch.export.load(file)
    found = value_and_gradient(program.module(), *other[:count])
    assert_alike(found, value_and_gradient(loss, *other[:count]))


@pytest.mark.parametrize("name", [name for name in MAKERS if not name.startswith("basicsr.PerceptualLoss")])
def test_trace(name: str) -> None:
    """Of those whose result is a tensor: a trace cannot give the None of BasicSR's pair."""
    loss, count = MAKERS[name](), 1 if name in ALONE else 2
    traced = torch.jit.trace(loss, EXAMPLE[:count], check_trace=False)
    assert "perceptual_ops::" not in str(traced.inlined_graph)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    assert_alike(value_and_gradient(torch.jit.load(file), *EXAMPLE[:count]), value_and_gradient(loss, *EXAMPLE[:count]))


@pytest.mark.parametrize("kind", ["export", "trace"])
def test_dists_without_gradient(kind: str) -> None:
    """As DISTS-pytorch's: none flows, in a program either, unless it was asked for."""
    loss, file = dists.DISTS(weights="random"), io.BytesIO()
    if kind == "export":
        torch.export.save(torch.export.export(loss, EXAMPLE, strict=False), file)
    else:
        torch.jit.save(torch.jit.trace(loss, EXAMPLE, check_trace=False), file)
    file.seek(0)
    program = torch.export.load(file).module() if kind == "export" else torch.jit.load(file)
    value = program(EXAMPLE[0].clone().requires_grad_(), EXAMPLE[1])
    torch.testing.assert_close(value, loss(*EXAMPLE))
    assert not value.requires_grad

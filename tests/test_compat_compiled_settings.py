"""Every setting of piq's and BasicSR's drop-ins, set between calls of a compiled loss: it holds from the next on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from perceptual import images
from torch import Tensor, nn

from perceptual_ops.compat import basicsr, piq
from perceptual_ops.compat.piq import metrics

X, Y = images(2, 17), images(2, 17, seed=1)
SHALLOW = {"layers": ("relu1_1", "conv1_2"), "network_weights": "random", "weights": [0.5, 1.0]}
MAKERS: dict[str, Callable[[], nn.Module]] = {
    "piq.ContentLoss": partial(piq.ContentLoss, **SHALLOW),
    "piq.StyleLoss": partial(piq.StyleLoss, **SHALLOW),
    "piq.LPIPS": partial(piq.LPIPS, weights="random"),
    "piq.DISTS": partial(piq.DISTS, weights="random"),
    "piq.TVLoss": piq.TVLoss,
    "basicsr.PerceptualLoss": partial(
        basicsr.PerceptualLoss, {"relu1_1": 0.5, "conv2_1": 1.0}, "vgg11", weights="random", style_weight=0.5
    ),
    "basicsr.WeightedTVLoss": basicsr.WeightedTVLoss,
}


class Distance(nn.Module):
    def __init__(self, power: float) -> None:
        super().__init__()
        self.power = power

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).abs() ** self.power


def power_of(power: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: (x - y).abs() ** power


VALUES: dict[str, list[Any]] = {  # what each setting is set to, one after the other
    "weights": [[2.0, 3.0], [torch.linspace(1, 2, 64).view(1, -1, 1, 1), 1.0], [torch.ones(64, 1, 1), 1.0]],
    "distance": [
        "mae", "mse", nn.L1Loss(reduction="none"), nn.SmoothL1Loss(reduction="none"),
        nn.SmoothL1Loss(reduction="none", beta=0.1), Distance(1.5), Distance(3.0), power_of(1.5), power_of(3.0),
        nn.L1Loss(reduction="none").forward, "mae",
    ],
    "reduction": ["sum", "mean", "none"],
    "normalize_features": [True, False],
    "norm_type": ["l1", "l2_squared", "l2"],
    "sum_of_distances": [True, False],
    "resize": [False, True],
    "perceptual_weight": [2.0, 0.0, 3.0],
    "style_weight": [2.0, 0.0, 3.0],
    "loss_weight": [2.0, 0.0],
    "layer_weights": [{"relu1_1": 2.0}, {"conv1_1": 2.0}, {"conv1_1": 2.0, "conv2_1": 1.0}],
    "criterion_type": ["l2", "fro", "l1"],
    "compute_dtype": [torch.bfloat16, None],
    "chunk_size": [1, None],
    "tile_size": [32, None],
    "engine": ["autograd", "lean"],
    "backend": ["reference", "native", "auto"],
    "cuda_graphs": [True, False],
}  # fmt: skip
ONLY: dict[tuple[str, str], dict[str, list[Any]]] = {
    ("piq.LPIPS", "distance"): {"distance": ["mae", Distance(1.5), Distance(3.0), "mse"]},  # through all of a VGG16
    ("piq.DISTS", "reduction"): {"reduction": ["sum", "mean", "none"], "sum_of_distances": [True]},
    ("piq.DISTS", "sum_of_distances"): {"reduction": ["sum"], "sum_of_distances": [True, False]},
    ("basicsr.PerceptualLoss", "tile_size"): {"style_weight": [0.0], "tile_size": [32, None]},
    ("basicsr.PerceptualLoss", "engine"): {"style_weight": [0.0], "engine": ["lean", "autograd", None]},
    ("basicsr.WeightedTVLoss", "reduction"): {"reduction": ["sum", "mean"]},
}


def settings_of(kind: type) -> list[str]:
    """Attributes that `_settings.setting` and `passed_on` made."""
    return [name for name in dir(kind) if (getattr(getattr(kind, name), "__doc__", "") or "").startswith("Setting ")]


def is_inherited(kind: type, name: str) -> bool:
    """Whether the setting is ContentLoss's, which is set to all values itself."""
    return kind in (piq.StyleLoss, piq.LPIPS, piq.DISTS) and name in settings_of(piq.ContentLoss)


def call(loss: nn.Module) -> Any:
    return loss(X) if isinstance(loss, piq.TVLoss | basicsr.WeightedTVLoss) else loss(X, Y)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=64):
        yield
    torch.compiler.reset()


@pytest.mark.parametrize("loss", MAKERS)
def test_compiled_loss_sees_its_settings(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One compiled loss, whose settings change one after the other."""
    monkeypatch.setattr(metrics, "LARGEST", 16)  # so that resize counts
    criterion = MAKERS[loss]()
    compiled = torch.compile(call, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(criterion), call(criterion))
    for name in settings_of(type(criterion)):
        changes = ONLY.get((loss, name), {name: VALUES[name][: 1 if is_inherited(type(criterion), name) else None]})
        before = {changed: getattr(criterion, changed) for changed in changes}
        for changed, values in changes.items():
            for value in values:
                setattr(criterion, changed, value)
                torch.testing.assert_close(compiled(criterion), call(criterion), msg=f"{changed} {value}")
        for changed, value in before.items():
            setattr(criterion, changed, value)
        torch.testing.assert_close(compiled(criterion), call(criterion), msg=f"{name} as before")

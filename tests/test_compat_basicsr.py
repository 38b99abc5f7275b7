"""compat.basicsr against BasicSR's formulas written out; BasicSR itself does not install."""

from __future__ import annotations

import copy

import pytest
import torch
from peers import assert_same, assert_same_in_fp64, features, pairs, run, state
from torch import Tensor, nn

from perceptual_ops.compat.basicsr import PerceptualLoss
from perceptual_ops.networks import ARCHITECTURES, IMAGENET_MEAN, IMAGENET_STD

LAYERS = {"conv1_2": 0.1, "relu2_2": 0.5, "pool2": 0.3, "conv3_2": 1.0}


class Oracle(nn.Module):
    """BasicSR's loss over torchvision's layers; its normalisation is an argument, to give it ours to the last place."""

    def __init__(self, vgg_type: str, mean: Tensor, std: Tensor, settings: dict[str, object]) -> None:
        super().__init__()
        names = [layer.name for layer in ARCHITECTURES[vgg_type]]
        last = max(names.index(layer) for layer in LAYERS) + 1
        self.network = nn.Sequential(*copy.deepcopy(features(vgg_type))[:last])
        self.names = names[:last]
        self.mean, self.std = mean, std
        self.perceptual_weight = settings.get("perceptual_weight", 1.0)
        self.style_weight = settings.get("style_weight", 0.0)
        self.range_norm = settings.get("range_norm", False)
        self.criterion = settings.get("criterion", "l1")

    def features(self, x: Tensor) -> dict[str, Tensor]:
        x = (x + 1) / 2 if self.range_norm else x
        x = (x - self.mean.to(x.dtype)) / self.std.to(x.dtype)
        found = {}
        for name, layer in zip(self.names, self.network, strict=True):
            x = layer(x)
            if name in LAYERS:
                found[name] = x.clone()
        return found

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        if self.criterion == "fro":
            return torch.linalg.vector_norm(x - y)
        return (x - y).abs().mean() if self.criterion == "l1" else (x - y).square().mean()

    def forward(self, x: Tensor, gt: Tensor) -> tuple[Tensor | None, Tensor | None]:
        xs, ys = self.features(x), self.features(gt.detach())

        def gram(f: Tensor) -> Tensor:
            flat = f.flatten(2)
            return flat.bmm(flat.transpose(1, 2)) / f[0].numel()

        perceptual = style = None
        if self.perceptual_weight > 0:
            perceptual = self.perceptual_weight * sum(w * self.distance(xs[k], ys[k]) for k, w in LAYERS.items())
        if self.style_weight > 0:
            style = self.style_weight * sum(w * self.distance(gram(xs[k]), gram(ys[k])) for k, w in LAYERS.items())
        return perceptual, style


def both(vgg_type: str = "vgg19", **settings: object) -> tuple[PerceptualLoss, Oracle]:
    ours = PerceptualLoss(LAYERS, vgg_type, weights=state(vgg_type), **settings)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    if not settings.get("use_input_norm", True):
        mean, std = torch.zeros_like(mean), torch.ones_like(std)
    return ours, Oracle(vgg_type, mean, std, settings)


def in_fp64(ours: PerceptualLoss, theirs: Oracle) -> tuple[PerceptualLoss, Oracle]:
    """Copies in fp64, with our normalisation in both: we round 1 / std to fp32 once, BasicSR its mean and std."""
    scale, shift = (tensor.double() for tensor in ours._loss._kept["input"])
    theirs = copy.deepcopy(theirs).double()
    theirs.mean, theirs.std, theirs.range_norm = -shift / scale, 1 / scale, False
    return copy.deepcopy(ours).double(), theirs


SETTINGS = [
    {},
    {"criterion": "l2", "vgg_type": "vgg16", "perceptual_weight": 0.7},
    {"criterion": "fro"},
    {"perceptual_weight": 0.0, "style_weight": 30.0},
    {"perceptual_weight": 0.0, "style_weight": 2.0, "criterion": "l2", "use_input_norm": False},
    {"perceptual_weight": 2.0, "style_weight": 5.0, "criterion": "l2"},
    {"style_weight": 3.0, "criterion": "fro"},
    {"range_norm": True},
]


def name_of(settings: object) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items()) or "default"  # type: ignore[attr-defined]


@pytest.mark.parametrize("settings", SETTINGS, ids=name_of)
def test_values_and_gradients(settings: dict[str, object]) -> None:
    ours, theirs = both(**settings)
    double, exact = in_fp64(ours, theirs)
    x, gt = pairs()["batch of 3"]
    x, gt = (x * 2 - 1, gt * 2 - 1) if settings.get("range_norm") else (x, gt)
    for part in range(2):  # the perceptual loss alone, then the style loss alone
        assert (ours(x, gt)[part] is None) == (theirs(x, gt)[part] is None)
        if theirs(x, gt)[part] is None:
            continue
        losses = [lambda a, b, loss=loss, part=part: loss(a, b)[part] for loss in (ours, theirs, exact, double)]
        assert_same(*losses[:3], x, gt)
        assert_same_in_fp64(losses[3], losses[2], x, gt)

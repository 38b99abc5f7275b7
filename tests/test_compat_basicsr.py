"""compat.basicsr against BasicSR's formulas written out; BasicSR itself does not install."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peers import assert_equal, assert_frozen, assert_same_arguments, difference, features, hub_cache, pairs, run, state
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


def batch(settings: dict[str, object]) -> tuple[Tensor, Tensor]:
    x, gt = pairs()["batch"]
    return (x * 2 - 1, gt * 2 - 1) if settings.get("range_norm") else (x, gt)


def set_input_map(oracle: Oracle, center: Tensor, deviation: Tensor) -> None:
    oracle.mean, oracle.std, oracle.range_norm = center, deviation, False


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


def test_arguments() -> None:
    def theirs(
        layer_weights,
        vgg_type="vgg19",
        use_input_norm=True,
        range_norm=False,
        perceptual_weight=1.0,
        style_weight=0.0,
        criterion="l1",
    ) -> None: ...

    assert_same_arguments(PerceptualLoss, theirs)


@pytest.mark.parametrize("settings", SETTINGS, ids=name_of)
def test_values_and_gradients(settings: dict[str, object]) -> None:
    ours, theirs = both(**settings)
    x, gt = batch(settings)
    for part, weight in enumerate((theirs.perceptual_weight, theirs.style_weight)):
        if weight > 0:  # each loss with a gradient of its own
            difference(ours, theirs, x, gt, set_input_map, lambda loss, x, y, part=part: loss(x, y)[part]).check()
        else:
            assert ours(x, gt)[part] is None


def test_both_losses_at_once() -> None:
    ours, _ = both(style_weight=5.0)
    x, gt = pairs()["photograph"]
    alone = [run(ours, x, gt, lambda loss, x, y, part=part: loss(x, y)[part])[1] for part in range(2)]
    _, together = run(ours, x, gt, lambda loss, x, y: sum(loss(x, y)))
    torch.testing.assert_close(together, sum(alone), rtol=1e-4, atol=1e-6 * together.abs().max().item())


@pytest.mark.parametrize("case", ["odd size", "flat", "black"])
def test_pictures(case: str) -> None:
    losses = both(criterion="l2")
    difference(*losses, *pairs()[case], set_input_map, lambda loss, x, y: loss(x, y)[0]).check()


def test_the_same_picture_has_no_distance_and_no_gradient() -> None:
    picture = pairs()["photograph"][1]
    for settings in ({}, {"style_weight": 1.0, "criterion": "fro"}):
        ours, _ = both(**settings)
        for part in ours(picture, picture):
            assert part is None or part == 0
        x = picture.clone().requires_grad_()
        sum(part for part in ours(x, picture) if part is not None).backward()
        assert not x.grad.any()


def test_no_gradient_flows_to_the_target() -> None:
    x, gt = pairs()["photograph"]
    gt = gt.clone().requires_grad_()
    assert not both()[0](x, gt)[0].requires_grad


@pytest.mark.parametrize("settings", [{}, {"style_weight": 1.0}], ids=str)
def test_images_that_are_no_tensors(settings: dict[str, float]) -> None:
    with pytest.raises(TypeError, match="gt: expected a tensor of images"):
        both(**settings)[0](pairs()["photograph"][0], None)


def test_losses_without_weight() -> None:
    ours, _ = both(perceptual_weight=0.0)
    assert ours(*pairs()["photograph"]) == (None, None)


def test_frozen() -> None:
    assert_frozen(both()[0])


def test_weights_from_the_hub_cache(tmp_path: Path) -> None:
    expected, _ = both()
    with hub_cache(tmp_path, vgg19="vgg19-dcbb9e9d.pth"):
        assert_equal(PerceptualLoss(LAYERS)(*pairs()["photograph"]), expected(*pairs()["photograph"]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vgg_type": "vgg19_bn"}, r"vgg_type: expected one of 'vgg11', 'vgg13', 'vgg16', 'vgg19'; got 'vgg19_bn'"),
        ({"criterion": "l3"}, "criterion: expected one of 'l1', 'l2', 'fro'; got 'l3'"),
        ({"criterion": "fro", "engine": "lean"}, 'engine: expected None or "autograd" for two losses at once or'),
    ],
)
def test_what_cannot_be_served(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PerceptualLoss(LAYERS, weights="random", **settings)

"""compat.piq as a project uses it: settings changed later, subclasses, checkpoints, torch.compile."""

from __future__ import annotations

import copy
import inspect
import logging
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from peers import assert_equal, pairs, peer, run
from test_compat_piq import encoder, numbers, our_loss, their_loss
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from perceptual_ops.compat import piq
from perceptual_ops.compat.piq import metrics

SHALLOW = {"layers": ("relu1_1", "conv1_2"), "weights": [0.5, 1.0]}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "content": ("ContentLoss", {**SHALLOW, "reduction": "none"}),
    "content, normalized": ("ContentLoss", {**SHALLOW, "normalize_features": True}),
    "content, a weight for each channel": ("ContentLoss", {"layers": ("relu1_2",), "weights": [numbers(1, 64, 1, 1)]}),
    "content, own network": ("ContentLoss", {"feature_extractor": encoder(), "layers": ("0", "3"), "weights": [1, 2]}),
    "style": ("StyleLoss", {**SHALLOW, "distance": "mae"}),
    "style, normalized": ("StyleLoss", {**SHALLOW, "normalize_features": True}),
    "style, own network": ("StyleLoss", {"feature_extractor": encoder(), "layers": ("0",)}),
    "lpips": ("LPIPS", {"reduction": "sum"}),
    "lpips, mae": ("LPIPS", {"distance": "mae"}),
    "lpips, average pooling": ("LPIPS", {"replace_pooling": True}),
    "dists": ("DISTS", {"reduction": "sum", "engine": "autograd"}),
}


def made(way: str) -> nn.Module:
    kind, settings = WAYS[way]
    return our_loss(kind, **copy.deepcopy(settings))


def small() -> tuple[Tensor, Tensor]:
    """Two pairs of the smallest images that reach the deepest layer, and a pixel or two."""
    x, y = (images[:, :, 10:27, 12:30] for images in pairs()["batch"])
    return x, y


def assert_alike(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    """Value and gradient; of that, single pixels may differ where maxima tie but for rounding."""
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-4, atol=0)
    assert (ours[1] - theirs[1]).norm() <= 0.02 * theirs[1].norm()


# ---- what they are ----


@pytest.mark.parametrize("kind", ["ContentLoss", "StyleLoss", "LPIPS", "DISTS", "TVLoss"])
def test_bases(kind: str) -> None:
    ours, theirs = getattr(piq, kind), getattr(peer("piq"), kind)
    assert issubclass(ours, _Loss)
    assert issubclass(ours, piq.ContentLoss) == issubclass(theirs, peer("piq").ContentLoss)


# ---- settings changed later ----


AUTOGRAD = {"engine": "autograd"}  # whose passes over tiny images take less time
CHANGES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("ContentLoss", SHALLOW, {"reduction": "none"}),
    ("ContentLoss", SHALLOW, {"normalize_features": True}),
    ("ContentLoss", {**SHALLOW, "normalize_features": True}, {"normalize_features": False}),
    ("ContentLoss", SHALLOW, {"distance": "mae"}),
    ("ContentLoss", SHALLOW, {"weights": [2.0, numbers(1, 64, 1, 1)]}),
    ("ContentLoss", {**SHALLOW, "weights": [numbers(1, 64, 1, 1), 0.5]}, {"weights": [3.0, 0.25]}),
    ("StyleLoss", SHALLOW, {"reduction": "sum", "weights": [0.0, 2.0]}),
    ("StyleLoss", SHALLOW, {"normalize_features": True, "distance": "mae"}),
    ("LPIPS", AUTOGRAD, {"reduction": "none"}),
    ("LPIPS", AUTOGRAD, {"distance": "mae"}),
    ("LPIPS", {**AUTOGRAD, "distance": "mae"}, {"distance": "mse"}),
    ("DISTS", AUTOGRAD, {"reduction": "sum"}),
    ("DISTS", AUTOGRAD, {"sum_of_distances": True, "reduction": "sum"}),
]


@pytest.mark.parametrize(("kind", "settings", "changes"), CHANGES, ids=str)
def test_settings_are_read_at_each_call(kind: str, settings: dict[str, Any], changes: dict[str, Any]) -> None:
    changed, expected = our_loss(kind, **settings), our_loss(kind, **settings | changes)
    pair = small()
    changed(*pair)
    for name, value in changes.items():
        setattr(changed, name, value)
    torch.testing.assert_close(run(changed, *pair), run(expected, *pair))


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("LPIPS", "normalize_features", False),
        ("DISTS", "normalize_features", True),
        ("ContentLoss", "distance", nn.SmoothL1Loss(reduction="none")),
        ("StyleLoss", "distance", nn.SmoothL1Loss(reduction="none", beta=50.0)),
        ("LPIPS", "distance", nn.L1Loss(reduction="none")),
    ],
    ids=str,
)
def test_settings_that_only_piq_has(kind: str, name: str, value: object) -> None:
    """Those that no argument gives; what piq makes of them."""
    settings = {} if kind in ("LPIPS", "DISTS") else SHALLOW
    losses = our_loss(kind, **settings), their_loss(kind, **settings)
    for loss in losses:
        setattr(loss, name, value)
    ours, theirs = (run(loss, *pairs()["batch"]) for loss in losses)
    assert_alike(ours, theirs)


def test_weights_that_are_tensors_move_and_copy_with_it() -> None:
    loss = our_loss("ContentLoss", layers=("relu1_2",), weights=[numbers(1, 64, 1, 1)])
    assert_equal(pickle.loads(pickle.dumps(loss))(*small()), loss(*small()))
    moved = copy.deepcopy(loss).to("meta")
    assert moved(*(images.to("meta") for images in small())).is_meta
    assert moved.weights[0].is_meta
    assert not loss.weights[0].is_meta


def test_weights_that_are_tensors_change_in_place() -> None:
    weight = numbers(1, 64, 1, 1)
    loss, pair = our_loss("ContentLoss", layers=("relu1_2",), weights=[weight]), small()
    before = loss(*pair)
    loss.weights[0].mul_(2)
    torch.testing.assert_close(loss(*pair), 2 * before)
    for kind in ("LPIPS", "DISTS"):
        learned = our_loss(kind, **AUTOGRAD)
        before = learned(*pair)
        learned.weights[0].mul_(2)
        assert_equal(learned(*pair), before)


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        ("ContentLoss", "reduction", None, "reduction: expected one of 'mean', 'sum', 'none'; got None"),
        ("ContentLoss", "normalize_features", "yes", "normalize_features: expected True or False, got 'yes'"),
        ("ContentLoss", "distance", "l2", "distance: expected one of 'mse', 'mae'; got 'l2'"),
        ("ContentLoss", "weights", 2.0, "weights: expected a list with a number or a tensor for each layer, got 2.0"),
        ("ContentLoss", "layers", ["relu1_1"], "layers: fixed when the ContentLoss is made"),
        ("ContentLoss", "mean", [0.0] * 3, "mean: fixed when the ContentLoss is made"),
        ("StyleLoss", "std", [1.0] * 3, "std: fixed when the StyleLoss is made"),
        ("StyleLoss", "model", nn.Identity(), "StyleLoss.model: not here; "),
        ("LPIPS", "weights", [1.0] * 5, "weights: fixed when the LPIPS is made"),
        ("DISTS", "weights", [1.0] * 12, "weights: fixed when the DISTS is made"),
        ("DISTS", "distance", "mae", "distance: fixed when the DISTS is made"),
        ("DISTS", "resize", 1, "resize: expected True or False, got 1"),
        ("TVLoss", "norm_type", "l3", "norm_type: expected one of 'l1', 'l2_squared', 'l2'; got 'l3'"),
    ],
)
def test_settings_that_are_refused(kind: str, name: str, value: object, message: str) -> None:
    loss = piq.TVLoss() if kind == "TVLoss" else our_loss(kind)
    with pytest.raises((AttributeError, TypeError, ValueError), match=message):
        setattr(loss, name, value)


@pytest.mark.parametrize("kind", ["ContentLoss", "StyleLoss", "LPIPS", "DISTS", "TVLoss"])
def test_no_argument_is_ignored_when_it_is_set_later(kind: str) -> None:
    loss = piq.TVLoss() if kind == "TVLoss" else our_loss(kind)
    for name in inspect.signature(type(loss)).parameters.keys() - {"replace_pooling"}:  # a method of piq's objects
        with pytest.raises((AttributeError, TypeError, ValueError), match=name):
            setattr(loss, name, object())


def test_other_weights_than_layers() -> None:
    loss = our_loss("ContentLoss", **SHALLOW)
    loss.weights = [1.0]
    with pytest.raises(ValueError, match="weights: expected 2, one for each layer; got 1"):
        loss(*pairs()["photograph"])
    loss = our_loss("ContentLoss", layers=("relu1_1",), weights=[], allow_layers_weights_mismatch=True)
    with pytest.raises(ValueError, match="weights: expected at least one that belongs to a layer, got none"):
        loss(*pairs()["photograph"])


def test_what_is_read() -> None:
    loss = our_loss("ContentLoss", **SHALLOW, mean=[0.1, 0.2, 0.3])
    assert (loss.layers, loss.weights, loss.mean) == (SHALLOW["layers"], (0.5, 1.0), (0.1, 0.2, 0.3))
    assert [tuple(weight.shape) for weight in our_loss("LPIPS").weights][-1] == (1, 512, 1, 1)
    with pytest.raises(AttributeError, match=r"LPIPS.model: not here; get_features"):
        _ = our_loss("LPIPS").model


# ---- piq's methods ----


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ContentLoss", {"layers": ("relu1_2", "relu2_2"), "weights": [1, 2]}),
        ("ContentLoss", {"layers": ("relu2_2",), "normalize_features": True}),
        ("StyleLoss", {"layers": ("relu2_2",)}),
        ("LPIPS", {}),
        ("DISTS", {}),
    ],
    ids=str,
)
def test_methods(kind: str, settings: dict[str, Any]) -> None:
    ours, theirs = our_loss(kind, **settings), their_loss(kind, **settings)
    x, y = pairs()["batch"]
    maps = [[loss.get_features(images) for images in (x, y)] for loss in (ours, theirs)]
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-4, atol=1e-5)
    distances = [loss.compute_distance(*sides) for loss, sides in zip((ours, theirs), maps, strict=True)]
    for one, other in zip(*distances, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * other.abs().max().item())
    torch.testing.assert_close(ours.normalize(x), theirs.normalize(x))
    if kind == "StyleLoss":
        torch.testing.assert_close(ours.gram_matrix(x), theirs.gram_matrix(x))


class OtherDistance:
    def compute_distance(self, x_features: list[Tensor], y_features: list[Tensor]) -> list[Tensor]:
        return [(x - y).abs().pow(1.5) for x, y in zip(x_features, y_features, strict=True)]


class OtherFeatures:
    def get_features(self, x: Tensor) -> list[Tensor]:
        return [features.square() for features in super().get_features(x)]  # type: ignore[misc]


class OtherLength:
    @staticmethod
    def normalize(x: Tensor) -> Tensor:
        return x / (1 + x.abs().sum(1, keepdim=True))


class OtherGram:
    @staticmethod
    def gram_matrix(x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)[:, :, None, None]


@pytest.mark.parametrize(
    ("own", "kind", "settings"),
    [
        (OtherDistance, "ContentLoss", SHALLOW),
        (OtherDistance, "LPIPS", {}),
        (OtherFeatures, "ContentLoss", SHALLOW),
        (OtherFeatures, "StyleLoss", SHALLOW),
        (OtherFeatures, "DISTS", {}),
        (OtherLength, "ContentLoss", {"layers": ("relu1_2",), "normalize_features": True}),
        (OtherLength, "LPIPS", {}),
        (OtherGram, "StyleLoss", SHALLOW),
    ],
    ids=str,
)
def test_subclasses(own: type, kind: str, settings: dict[str, Any]) -> None:
    losses = our_loss(kind, **settings), their_loss(kind, **settings)
    plain = losses[0](*pairs()["batch"])
    for loss in losses:
        loss.__class__ = type("Own", (own, type(loss)), {})
    ours, theirs = (run(loss, *pairs()["batch"]) for loss in losses)
    assert_alike(ours, theirs)
    assert not torch.allclose(ours[0], plain, rtol=1e-3)


def test_a_method_of_one_object() -> None:
    losses = our_loss("ContentLoss", **SHALLOW), their_loss("ContentLoss", **SHALLOW)
    for loss in losses:
        loss.compute_distance = partial(OtherDistance.compute_distance, loss)
    torch.testing.assert_close(*(loss(*pairs()["batch"]) for loss in losses))


class OtherPooling:
    def replace_pooling(self, module: nn.Module) -> nn.Module:
        for name, child in module.named_children():
            module.add_module(name, nn.Identity() if isinstance(child, nn.MaxPool2d) else child)
        return module


def test_a_pooling_of_ones_own() -> None:
    own = type("Own", (OtherPooling, piq.ContentLoss), {})
    expected = nn.Sequential(*(nn.Identity() if isinstance(layer, nn.MaxPool2d) else layer for layer in encoder()))
    pair = pairs()["photograph"]
    assert_equal(own(encoder(), ("3",), replace_pooling=True)(*pair), piq.ContentLoss(expected, ("3",))(*pair))
    with pytest.raises(TypeError, match="replace_pooling: expected no method of Own's own for a network by name"):
        own("vgg16", replace_pooling=True, network_weights="random")


# ---- refusals ----


def test_what_piq_asserts() -> None:
    x, y = pairs()["batch"]
    calls: list[Callable[[], object]] = [
        lambda: our_loss("ContentLoss")(x[None], y[None]),
        lambda: our_loss("LPIPS")(x, y[:, :, 1:]),
        lambda: our_loss("DISTS")(x, y.int()),
        lambda: our_loss("ContentLoss", layers=("relu1_1",), weights=[1.0, 2.0]),
        lambda: our_loss("ContentLoss", layers=("no layer",), weights=[]),
        lambda: piq.TVLoss()(x[0]),
        lambda: piq.total_variation([x]),
    ]
    for call in calls:
        with pytest.raises(AssertionError, match=": expected ") as refusal:
            call()
        assert isinstance(refusal.value, TypeError | ValueError)


# ---- networks of one's own ----


@pytest.mark.parametrize("kind", ["ContentLoss", "StyleLoss"])
@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("per_channel", [True, False])
def test_channels_of_ones_own_network(kind: str, channels: int, per_channel: bool) -> None:
    network = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3))
    count = channels if per_channel else 1
    settings = {"layers": ("0", "2"), "weights": [1.0, 2.0], "mean": [0.4] * count, "std": [0.3] * count}
    x, y = numbers(2, channels, 12, 14), numbers(2, channels, 12, 14, seed=5)
    ours, theirs = (run(getattr(module, kind)(network, **settings), x, y) for module in (piq, peer("piq")))
    assert_alike(ours, theirs)


@pytest.mark.parametrize("nested", [False, True])
def test_means_that_ones_own_network_has_no_channels_for(nested: bool) -> None:
    first = nn.Conv2d(1, 4, 3)
    network = nn.Sequential(nn.Sequential(first, nn.ReLU()) if nested else first, nn.Conv2d(4, 4, 3))
    with pytest.raises(ValueError, match=r"mean, std: expected 1 number each, .*; got 3; pass mean=\[0.0\]"):
        piq.ContentLoss(network, ("1",))


# ---- torch.compile, torch.inference_mode ----


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def call(loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return loss(x, y)


@pytest.mark.parametrize("way", WAYS)
def test_compiles_whole(way: str, fresh_compiler: None) -> None:
    loss, pair = made(way), small()
    compiled = torch.compile(call, fullgraph=True, backend="eager")
    torch.testing.assert_close(run(loss, *pair, compiled), run(loss, *pair))


@pytest.mark.parametrize("way", ["content", "style"])
def test_compiles_with_a_gradient_by_the_second(way: str, fresh_compiler: None) -> None:
    loss, (x, y) = made(way), small()

    def swapped(loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return loss(y, x)

    compiled = torch.compile(swapped, fullgraph=True, backend="eager")
    torch.testing.assert_close(run(loss, x, y, compiled), run(loss, x, y, swapped))


def test_compiles_by_inductor(fresh_compiler: None) -> None:
    loss, pair = made("style"), small()
    torch.testing.assert_close(run(loss, *pair, torch.compile(call, fullgraph=True)), run(loss, *pair))


def test_compiles_what_is_overridden_changed_or_large(fresh_compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = small()
    own = our_loss("ContentLoss", **SHALLOW)
    own.__class__ = type("Own", (OtherDistance, piq.ContentLoss), {})
    compiled = torch.compile(call, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(own, *pair), own(*pair))
    changed = our_loss("ContentLoss", **SHALLOW)
    compiled(changed, *pair)
    changed.weights, changed.reduction = [3.0, 0.5], "none"
    torch.testing.assert_close(compiled(changed, *pair), changed(*pair))
    monkeypatch.setattr(metrics, "LARGEST", 16)
    large = our_loss("DISTS", **AUTOGRAD)
    torch.testing.assert_close(compiled(large, *pair), large(*pair))
    variation = torch.compile(piq.TVLoss(), fullgraph=True, backend="eager")
    torch.testing.assert_close(variation(pair[0]), piq.TVLoss()(pair[0]))


@pytest.mark.parametrize("way", WAYS)
def test_made_under_inference_mode(way: str) -> None:
    pair = small()
    with torch.inference_mode():
        loss = made(way)
        loss(*pair)
    assert_equal(run(loss, *pair), run(made(way), *pair))


# ---- checkpoints ----


@pytest.mark.parametrize("kind", ["ContentLoss", "LPIPS", "DISTS"])
def test_checkpoint_of_before(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    before = nn.ModuleDict({"generator": nn.Conv2d(3, 3, 3), "criterion": their_loss(kind)})
    after = nn.ModuleDict({"generator": nn.Conv2d(3, 3, 3), "criterion": our_loss(kind)})
    with caplog.at_level(logging.DEBUG, "perceptual_ops"):
        after.load_state_dict(before.state_dict())
    assert "criterion: " in caplog.text
    assert after["generator"].weight.equal(before["generator"].weight)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        after.load_state_dict(before.state_dict() | {"criterion.modal.weight": torch.zeros(1)})

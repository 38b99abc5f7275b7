"""compat.basicsr as a project uses it: settings changed later, checkpoints, options files, torch.compile."""

from __future__ import annotations

import copy
import importlib
import inspect
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peers import assert_equal, hub_cache, pairs, run, state
from torch import Tensor, nn

from perceptual_ops.compat import basicsr
from perceptual_ops.compat.basicsr import PerceptualLoss, WeightedTVLoss

LAYERS = {"conv1_2": 0.5, "relu2_1": 1.0}
STYLE = {"perceptual_weight": 0.0, "style_weight": 2.0}
WAYS: dict[str, dict[str, Any]] = {
    "perceptual": {},
    "style": STYLE,
    "both": {"style_weight": 2.0},
    "fro": {"criterion": "fro", "style_weight": 2.0},
    "autograd": {"engine": "autograd", "range_norm": True},
    "style by autograd": {"engine": "autograd", **STYLE},
    "bfloat16": {"compute_dtype": "bfloat16", "criterion": "l2"},
    "neither": {"perceptual_weight": 0.0},
}


def made(**settings: Any) -> PerceptualLoss:
    return PerceptualLoss(**{"layer_weights": LAYERS, "vgg_type": "vgg16", "weights": state("vgg16"), **settings})


def total(loss: nn.Module, x: Tensor, gt: Tensor) -> Tensor:
    return sum((part for part in loss(x, gt) if part is not None), 0 * x.sum())


# ---- settings changed later ----


@pytest.mark.parametrize("first", ["perceptual", "style"])
@pytest.mark.parametrize(
    "settings",
    [
        {"perceptual_weight": 3.0},
        {"style_weight": 7.0},
        {"perceptual_weight": 0.0, "style_weight": 7.0},
        {"perceptual_weight": 2.0, "style_weight": 0.0},
        {"perceptual_weight": 0.0, "style_weight": -1.0},
        {"layer_weights": {"conv1_1": 2.0, "relu2_1": 0.25}},
        {"criterion": "l2"},
        {"criterion": "fro"},
    ],
    ids=str,
)
def test_settings_are_read_at_each_call(first: str, settings: dict[str, Any]) -> None:
    changed = made(**WAYS[first])
    pair = pairs()["batch"]
    changed(*pair)
    for name, value in settings.items():
        setattr(changed, {"criterion": "criterion_type"}.get(name, name), value)
    expected = made(**{**WAYS[first], **settings})
    assert_equal(changed(*pair), expected(*pair))
    assert_equal(run(changed, *pair, total)[1], run(expected, *pair, total)[1])


def test_layer_weights_changed_in_place() -> None:
    given = dict(LAYERS)
    loss = made(layer_weights=given)
    loss.layer_weights["conv1_2"] = 3.0
    pair = pairs()["photograph"]
    assert_equal(loss(*pair), made(layer_weights={**LAYERS, "conv1_2": 3.0})(*pair))
    assert given == LAYERS
    loss.layer_weights["conv1_2"] = "3"
    with pytest.raises(TypeError, match=r"layer_weights\['conv1_2'\]: expected a number, got '3'"):
        loss(*pair)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"conv5_1": 1.0},
            "layer_weights: expected some of conv1_1, .*, relu2_1; got 'conv5_1'; a deeper one",
        ),
        ({"conv9_1": 1.0}, "layer_weights: expected some of conv1_1, .*, relu2_1; got 'conv9_1'"),
        ({}, "layer_weights: expected a dict of layer names and weights, .*; got {}"),
    ],
)
def test_layers_that_the_network_has_not(change: dict[str, float], message: str) -> None:
    edited = made()
    edited.layer_weights.clear()
    edited.layer_weights.update(change)
    replaced = made()
    if change:
        replaced.layer_weights = change
    for loss in (edited, replaced) if change else (edited,):
        with pytest.raises((TypeError, ValueError), match=message):
            loss(*pairs()["photograph"])
    with pytest.raises(ValueError, match=r"layer_weights: expected some of conv1_1, .*, pool5; got 'conv9_1'$"):
        made(layer_weights={"conv9_1": 1.0})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("style_weight", "1", "style_weight: expected a number, got '1'"),
        ("perceptual_weight", float("nan"), "perceptual_weight: expected a finite number, got nan"),
        ("layer_weights", ["conv1_2"], "layer_weights: expected a dict of layer names and weights"),
        ("layer_weights", {}, "layer_weights: expected a dict of layer names and weights"),
        ("criterion_type", "l3", "criterion_type: expected one of 'l1', 'l2', 'fro'; got 'l3'"),
        ("criterion", nn.MSELoss(), "PerceptualLoss.criterion: not here; criterion_type names the distance"),
        ("vgg", nn.Identity(), "PerceptualLoss.vgg: not here; "),
    ],
)
def test_settings_that_are_refused(name: str, value: object, message: str) -> None:
    loss = made()
    before = loss(*pairs()["photograph"])
    with pytest.raises((AttributeError, TypeError, ValueError), match=message):
        setattr(loss, name, value)
    assert_equal(loss(*pairs()["photograph"]), before)


@pytest.mark.parametrize("kind", [PerceptualLoss, WeightedTVLoss])
def test_no_argument_is_ignored_when_it_is_set_later(kind: type[nn.Module]) -> None:
    loss = made() if kind is PerceptualLoss else kind()
    for name in inspect.signature(kind).parameters:
        with pytest.raises((AttributeError, TypeError, ValueError), match=name):
            setattr(loss, name, object())


def test_the_engine_is_a_setting() -> None:
    loss, pair = made(), pairs()["photograph"]
    loss.engine = "autograd"
    (gradient,) = torch.autograd.grad(loss(x := pair[0].clone().requires_grad_(), pair[1])[0], x, create_graph=True)
    assert gradient.requires_grad  # which the lean engine has not


def test_the_lean_engine_is_not_left_in_silence() -> None:
    loss = made(engine="lean")
    loss.style_weight = 1.0
    with pytest.raises(ValueError, match="engine: expected None or"):
        loss(*pairs()["photograph"])


def test_what_it_prints_is_what_holds() -> None:
    loss = made()
    loss.style_weight, loss.layer_weights = 3.0, {"conv1_1": 0.25}
    assert "{'conv1_1': 0.25}, perceptual_weight=1.0, style_weight=3.0, criterion='l1'" in repr(loss)


@pytest.mark.parametrize("name", ["vgg", "criterion"])
def test_attributes_that_are_missing(name: str) -> None:
    with pytest.raises(AttributeError, match=f"PerceptualLoss.{name}: not here; "):
        getattr(made(), name)
    with pytest.raises(AttributeError, match="'PerceptualLoss' object has no attribute 'vga'"):
        _ = made().vga


@pytest.mark.parametrize("name", ["L1Loss", "MSELoss", "CharbonnierLoss", "VGGFeatureExtractor"])
def test_names_that_are_missing(name: str) -> None:
    with pytest.raises(ImportError, match=f"perceptual_ops.compat.basicsr.{name}: not here; "):
        getattr(basicsr, name)
    with pytest.raises(AttributeError, match=r"module 'perceptual_ops.compat.basicsr' has no attribute 'GANLoss'"):
        _ = basicsr.GANLoss


# ---- images ----


@pytest.mark.parametrize("way", ["perceptual", "style", "both"])
def test_one_image_without_a_batch(way: str) -> None:
    """As BasicSR's, whose normalisation makes a batch of it."""
    loss, (x, gt) = made(**WAYS[way]), pairs()["photograph"]
    for one, other in ((x[0], gt[0]), (x[0], gt)):
        assert_equal(loss(one, other), loss(x, gt))
    gray = x[:, :1], gt[:, :1]
    assert_equal(loss(gray[0][0], gray[1][0]), loss(*gray))
    with pytest.raises(ValueError, match="x: expected shape"):
        loss(x[0, 0], gt[0, 0])


# ---- torch.compile, torch.inference_mode ----


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("way", WAYS)
def test_compiles_whole(way: str, fresh_compiler: None) -> None:
    loss, (x, gt) = made(**WAYS[way]), pairs()["photograph"]
    backend = "aot_eager" if way in ("both", "style by autograd") else "eager"  # one for each kind of operators
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    torch.testing.assert_close(run(compiled, x, gt, total), run(loss, x, gt, total))
    assert [part is None for part in compiled(x, gt)] == [part is None for part in loss(x, gt)]


def test_compiles_without_a_batch(fresh_compiler: None) -> None:
    loss, (x, gt) = made(**WAYS["both"]), pairs()["photograph"]
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x[0], gt[0]), loss(x, gt))


def test_a_compiled_loss_sees_its_settings(fresh_compiler: None) -> None:
    loss, pair = made(), pairs()["photograph"]
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    compiled(*pair)
    loss.style_weight = 2.0
    loss.layer_weights["conv1_2"] = 0.1
    torch.testing.assert_close(compiled(*pair), loss(*pair))


@pytest.mark.parametrize("way", ["perceptual", "style", "both", "fro", "autograd", "style by autograd"])
def test_made_under_inference_mode(way: str) -> None:
    pair = pairs()["photograph"]
    with torch.inference_mode():
        loss = made(**WAYS[way])
        loss(*pair)
    assert_equal(run(loss, *pair, total), run(made(**WAYS[way]), *pair, total))


# ---- checkpoints ----


def test_checkpoint_of_before(caplog: pytest.LogCaptureFixture) -> None:
    """BasicSR's module has these keys; of each convolution two."""
    model = nn.ModuleDict({"net_g": nn.Conv2d(3, 3, 3), "cri_perceptual": made()})
    kept = {f"net_g.{name}": torch.full_like(value, 0.5) for name, value in model["net_g"].state_dict().items()}
    theirs = {f"cri_perceptual.vgg.{name}": torch.zeros(1, 3, 1, 1) for name in ("mean", "std")}
    theirs |= {f"cri_perceptual.vgg.vgg_net.conv1_1.{name}": torch.zeros(64) for name in ("weight", "bias")}
    with caplog.at_level(logging.DEBUG, "perceptual_ops"):
        model.load_state_dict({**kept, **theirs})
    assert "cri_perceptual: 4 tensors" in caplog.text
    assert all(value.equal(kept[name]) for name, value in model.state_dict().items())
    for unknown in ("vgg.median", "head.weight"):
        with pytest.raises(RuntimeError, match="Unexpected key"):
            model.load_state_dict({**kept, f"cri_perceptual.{unknown}": torch.zeros(1)})


# ---- options files ----


class Registry:
    """As basicsr.utils.registry.Registry: a name only once, and none found under `name` is looked for with a suffix."""

    def __init__(self) -> None:
        self._obj_map: dict[str, Any] = {}

    def register(self, obj: Any = None, suffix: str | None = None) -> None:
        name = obj.__name__ if suffix is None else f"{obj.__name__}_{suffix}"
        assert name not in self._obj_map, f"An object named '{name}' was already registered"
        self._obj_map[name] = obj

    def get(self, name: str) -> Any:
        return self._obj_map[name]

    def __contains__(self, name: str) -> bool:
        return name in self._obj_map


def build_loss(registry: Registry, options: dict[str, Any]) -> nn.Module:
    options = copy.deepcopy(options)
    return registry.get(options.pop("type"))(**options)


def test_options_files(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    registry.register(type("PerceptualLoss", (), {}))  # BasicSR's own
    basicsr.register(registry)
    basicsr.register(registry)
    options = {"type": "PerceptualLoss_perceptual_ops", "layer_weights": LAYERS, "vgg_type": "vgg16",
               "weights": "random", "compute_dtype": "bfloat16"}  # fmt: skip
    loss = build_loss(registry, options)
    expected = made(weights="random", compute_dtype=torch.bfloat16)
    assert_equal(loss(*pairs()["photograph"]), expected(*pairs()["photograph"]))
    assert isinstance(build_loss(registry, {"type": "WeightedTVLoss_perceptual_ops"}), WeightedTVLoss)

    own = Registry()
    basicsr.register(own, suffix="fused")
    assert own.get("PerceptualLoss_fused") is PerceptualLoss
    module = type("basicsr.utils.registry", (), {"LOSS_REGISTRY": Registry()})
    monkeypatch.setattr(importlib, "import_module", lambda name: {"basicsr.utils.registry": module}[name])
    basicsr.register()
    assert "PerceptualLoss_perceptual_ops" in module.LOSS_REGISTRY


def test_register_without_basicsr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "basicsr", None)
    with pytest.raises(ModuleNotFoundError, match=r"registry: .*; pip install basicsr, or pass registry=$"):
        basicsr.register()


def test_compute_dtype_as_a_word_later() -> None:
    loss, pair = made(), pairs()["photograph"]
    loss.compute_dtype = "bfloat16"
    assert loss.compute_dtype == torch.bfloat16
    assert_equal(loss(*pair), made(compute_dtype=torch.bfloat16)(*pair))
    with pytest.raises(
        ValueError, match=r"compute_dtype: expected None, torch.float32, float16 or bfloat16, got 'half'"
    ):
        loss.compute_dtype = "half"


def test_compute_dtype_that_is_no_word_of_torch() -> None:
    with pytest.raises(
        ValueError, match=r"compute_dtype: expected None, torch.float32, float16 or bfloat16, got 'half'"
    ):
        made(compute_dtype="half")


def test_weights_that_cannot_be_had(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("perceptual_ops.networks.weights.download", refuse)
    named = r"could not download .*weights='experiments/pretrained_models/vgg19-dcbb9e9d.pth'"
    with hub_cache(tmp_path), pytest.raises(OSError, match=named):
        PerceptualLoss(LAYERS)

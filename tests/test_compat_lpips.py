"""compat.lpips against the package lpips."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import (
    assert_equal,
    assert_frozen,
    assert_same_arguments,
    difference,
    features,
    hub_cache,
    pairs,
    peer,
    run,
    state,
    torchvision_gives,
)
from torch import Tensor, nn

from perceptual_ops import load_network
from perceptual_ops.compat.lpips import LPIPS

TRUNKS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


def in_range(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x * 2 - 1, y * 2 - 1


def their_loss(trunk: nn.Sequential, net: str = "alex", **settings: Any) -> nn.Module:
    lpips = peer("lpips")
    with torchvision_gives(**{TRUNKS[net]: trunk}):
        return lpips.LPIPS(net=net, verbose=False, **settings)


def both(net: str = "alex", **settings: Any) -> tuple[LPIPS, nn.Module]:
    theirs = their_loss(features(TRUNKS[net]), net, **settings)
    return LPIPS(net=net, weights=state(TRUNKS[net]), **settings), theirs


def set_input_map(loss: Any, center: Tensor, deviation: Tensor) -> None:
    loss.scaling_layer.shift, loss.scaling_layer.scale = center, deviation


SETTINGS: list[dict[str, Any]] = [
    {},
    {"net": "squeeze"},
    {"spatial": True},
    {"version": "0.0"},
    {"lpips": False, "spatial": True},
]


def test_arguments() -> None:
    theirs = peer("lpips").LPIPS
    assert_same_arguments(LPIPS, theirs)
    assert_same_arguments(LPIPS.forward, theirs.forward)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_values_and_gradients(settings: dict[str, Any]) -> None:
    difference(*both(**settings), *in_range(*pairs()["batch"]), set_input_map).check()


@pytest.mark.parametrize("case", pairs())
def test_pictures(case: str) -> None:
    difference(*both(), *in_range(*pairs()[case]), set_input_map).check()


def test_learned_weights_of_a_network() -> None:
    """A VGG16 as it was trained, and so features that are 0 in places, as of photographs."""
    pytest.importorskip("stlpips_pytorch", exc_type=ImportError)
    weights = load_network("vgg16", "stlpips", pooling="max").state_dict()
    trunk = copy.deepcopy(features("vgg16"))
    trunk.load_state_dict(dict(zip(trunk.state_dict(), weights.values(), strict=True)))
    losses = LPIPS(net="vgg", weights=weights), their_loss(trunk, "vgg")
    difference(*losses, *in_range(*pairs()["photograph"]), set_input_map).check()


@pytest.mark.parametrize("settings", [{}, {"spatial": True}], ids=str)
def test_values_of_each_layer(settings: dict[str, Any]) -> None:
    ours, theirs = both(**settings)
    x, y = in_range(*pairs()["batch"])
    (value, layers), (their_value, their_layers) = (loss(x, y, retPerLayer=True) for loss in (ours, theirs))
    assert isinstance(layers, list)
    torch.testing.assert_close([value, *layers], [their_value, *their_layers], rtol=1e-5, atol=1e-6)

    def weighted(loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        _, layers = loss(x, y, retPerLayer=True)
        return sum(weight * layer for weight, layer in enumerate(layers, 1))

    difference(ours, theirs, x, y, set_input_map, weighted).check()


def test_images_between_0_and_1() -> None:
    difference(*both(), *pairs()["batch"], set_input_map, lambda loss, x, y: loss(x, y, normalize=True)).check()


def test_one_image_against_many_and_the_gradient_by_the_second() -> None:
    ours, theirs = both()
    many, others = in_range(*pairs()["batch"])
    one = others[:1].flip(3)
    difference(ours, theirs, one, many, set_input_map).check()
    difference(ours, theirs, one, many, set_input_map, lambda loss, x, y: loss(y, x)).check()


def test_the_same_picture_has_no_distance_and_no_gradient() -> None:
    x, _ = in_range(*pairs()["batch"])
    for spatial in (False, True):
        value, gradient = run(LPIPS(spatial=spatial, weights=state("alexnet")), x, x.clone())
        assert not value.any()
        assert not gradient.any()


def test_frozen_and_silent(capsys: pytest.CaptureFixture[str]) -> None:
    ours, _ = both(eval_mode=False)
    assert_frozen(ours)
    assert capsys.readouterr().out == ""


def test_no_dropout_does_not_cost_the_learned_weights() -> None:
    ours, theirs = both(use_dropout=False)
    pair = in_range(*pairs()["photograph"])
    assert_equal(ours(*pair), both()[0](*pair))
    assert not torch.allclose(ours(*pair), theirs(*pair), rtol=0.1)  # lpips leaves them random


def test_random_linear_weights() -> None:
    pair = in_range(*pairs()["photograph"])
    torch.manual_seed(4)
    _, theirs = both(pretrained=False)
    learned = LPIPS(weights=state("alexnet"))
    torch.manual_seed(5)
    ours = LPIPS(pretrained=False, weights=state("alexnet"))
    assert not torch.allclose(ours(*pair), learned(*pair), rtol=0.1)
    torch.manual_seed(5)
    assert_equal(LPIPS(pretrained=False, weights=state("alexnet"))(*pair), ours(*pair))
    given = LPIPS(weights=state("alexnet"), linear=theirs.state_dict())
    difference(given, theirs, *pair, set_input_map).check()


@pytest.mark.parametrize("with_network", [True, False])
def test_checkpoints(tmp_path: Path, with_network: bool) -> None:
    _, theirs = both(pretrained=False)
    checkpoint = {key: value for key, value in theirs.state_dict().items() if with_network or key.startswith("lin")}
    path = tmp_path / "latest_net_.pth"
    torch.save(checkpoint, path)
    weights = "random" if with_network else state("alexnet")
    difference(
        LPIPS(model_path=path, weights=weights), theirs, *in_range(*pairs()["photograph"]), set_input_map
    ).check()


def test_weights_from_the_hub_cache(tmp_path: Path) -> None:
    pair = in_range(*pairs()["photograph"])
    with hub_cache(tmp_path, alexnet="alexnet-owt-7be5be79.pth", squeezenet1_1="squeezenet1_1-b8a52dc0.pth"):
        assert_equal(LPIPS()(*pair), LPIPS(weights=state("alexnet"))(*pair))
        assert_equal(LPIPS(net="squeeze")(*pair), LPIPS(net="squeeze", weights=state("squeezenet1_1"))(*pair))


def test_what_cannot_be_served() -> None:
    with pytest.raises(ValueError, match="pnet_tune: expected False, since the network is frozen"):
        LPIPS(pnet_tune=True, weights="random")
    with pytest.raises(ValueError, match="net: expected one of 'alex', 'vgg', 'vgg16', 'squeeze'; got 'resnet'"):
        LPIPS(net="resnet")
    with pytest.raises(ValueError, match=r"version: expected one of '0\.1', '0\.0'; got 'v0\.1'"):
        LPIPS(version="v0.1", weights="random")


def test_random_network() -> None:
    assert LPIPS(pnet_rand=True)(*in_range(*pairs()["photograph"])).item() > 0

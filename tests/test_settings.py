"""What a loss was made with, set later: it holds as if the loss had been made so, or it is refused by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from perceptual import images
from torch import Tensor, nn

import perceptual_ops as po

FIXED = object()  # refused whatever the value is
STYLE = images(1, 30, seed=2)


def perceptual(**settings: object) -> po.PerceptualLoss:
    made = {
        "weights": "random",
        "content_layers": ["relu1_1"],
        "style_layers": ["relu1_1", "conv1_1"],
        "tv_weight": 0.1,
    }
    return po.PerceptualLoss("vgg11", **{**made, **settings})


def lpips(**settings: object) -> po.LPIPS:
    return po.LPIPS("alex", **{"weights": "random", "reduction": "none", **settings})


def dists(**settings: object) -> po.DISTS:
    return po.DISTS(**{"weights": "random", **settings})


COMMON = {
    "weights": FIXED,
    "mean": FIXED,
    "std": FIXED,
    "input_range": (-1.0, 2.0),
    "compute_dtype": torch.bfloat16,
    "chunk_size": 1,
    "tile_size": 16,
    "engine": "autograd",
    "backend": "reference",
    "cuda_graphs": True,
}
SETTINGS: dict[Callable[..., nn.Module], dict[str, object]] = {
    perceptual: COMMON
    | {
        "network": FIXED,
        "content_layers": {"conv1_1": 0.5},
        "style_layers": {"conv1_1": 2.0},
        "content_weight": 3.0,
        "style_weight": 0.25,
        "tv_weight": 0.0,
        "content_distance": "l1",
        "style_distance": "huber",
        "gram_normalize": "none",
        "gram_over": "clip",
        "style_statistics": "mean_std",
        "normalize_features": "channel",
        "input_size": (20, 24),
        "resize_mode": "bicubic",
        "drop_tokens": FIXED,
        "reduction": "sum",
        "eps": 0.5,
        "delta": 0.5,
    },
    lpips: COMMON
    | {
        "network": FIXED,
        "version": FIXED,
        "linear": FIXED,
        "spatial": True,
        "reduction": "sum",
        "eps": 0.1,
        "eps_inside": True,
    },
    dists: COMMON | {"alpha_beta": FIXED, "normalize_weights": FIXED, "reduction": "sum"},
}
CLASSES = {perceptual: po.PerceptualLoss, lpips: po.LPIPS, dists: po.DISTS}
NONSENSE: dict[str, list[object]] = {
    "input_range": [(1.0, 0.0), "01", 3.0],
    "compute_dtype": [torch.float64, "bf16"],
    "chunk_size": [0, -1, 2.0, True, "all"],
    "tile_size": [0, -1, 2.0, True, "all"],
    "engine": ["fast", None],
    "backend": ["cuda", None],
    "cuda_graphs": [None, 1, "yes"],
    "content_layers": ["relu1_1", [1], {"relu1_1": "heavy"}, {"relu1_1": float("nan")}],
    "style_layers": [7],
    "content_weights": [[1.0, 2.0], "1", [float("inf")]],
    "content_weight": ["much", float("nan")],
    "style_weight": [None, float("inf")],
    "tv_weight": [float("nan"), "0"],
    "content_distance": ["l3"],
    "style_distance": [2],
    "gram_normalize": ["chwn"],
    "gram_over": ["clips", 1],
    "style_statistics": ["std", None],
    "normalize_features": ["layer", True],
    "input_size": [0, (3,), "24", 2.5],
    "resize_mode": ["nearest", 1],
    "reduction": ["average", None, 1],
    "eps": [0.0, -1.0, "tiny"],
    "delta": [0.0],
    "spatial": ["yes", 1],
    "eps_inside": [None],
}


def call(loss: nn.Module) -> Tensor:
    x, y = images(2, 32), images(2, 32, seed=1)
    with torch.no_grad():
        return loss(x, y, STYLE) if isinstance(loss, po.PerceptualLoss) else loss(x, y)


@pytest.mark.parametrize("make", SETTINGS, ids=lambda make: make.__name__)
def test_every_argument_is_known_here(make: Callable[..., nn.Module]) -> None:
    arguments = set(inspect.signature(CLASSES[make]).parameters)
    assert arguments == set(SETTINGS[make])


@pytest.mark.parametrize(
    ("make", "name"), [(make, name) for make, values in SETTINGS.items() for name in values],
    ids=lambda value: getattr(value, "__name__", value),
)  # fmt: skip
def test_set_later(make: Callable[..., nn.Module], name: str) -> None:
    value = SETTINGS[make][name]
    changed = make()
    call(changed)  # whatever a first call may have derived
    if value is FIXED:
        for other in ("another", nn.Identity(), nn.Parameter(torch.ones(3))):
            with pytest.raises(AttributeError, match=rf"{name}: fixed when the {type(changed).__name__} is made, got"):
                setattr(changed, name, other)
        assert not list(changed.parameters()) and not list(changed.children())
        return
    setattr(changed, name, value)
    torch.testing.assert_close(call(changed), call(make(**{name: value})), rtol=0, atol=0)
    if isinstance(value, float | str | bool):
        assert getattr(changed, name) == value


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_refused_when_it_is_set(name: str) -> None:
    for make in (perceptual, lpips, dists):
        if not hasattr(CLASSES[make], name):
            continue
        loss = make()
        before = getattr(loss, name)
        for value in NONSENSE[name]:
            with pytest.raises((TypeError, ValueError), match=name):
                setattr(loss, name, value)
            assert getattr(loss, name) == before


def test_weights_of_the_layers_hold_as_they_are_given() -> None:
    loss = perceptual(style_weight=4.0)
    assert loss.style_weights == (4.0, 4.0)
    loss.style_weights = [2.0, 3.0]
    assert loss.style_weights == (2.0, 3.0) and loss.style_weight == 1.0
    expected = perceptual(style_layers={"relu1_1": 2.0, "conv1_1": 3.0})
    torch.testing.assert_close(call(loss), call(expected), rtol=0, atol=0)
    with pytest.raises(AttributeError):
        loss.style_weights.append(1.0)


def test_a_part_that_the_loss_was_made_without() -> None:
    loss = perceptual(style_layers=None)
    with pytest.raises(ValueError, match="style_weight: expected 0, since this loss has no style part"):
        loss.style_weight = 2.0
    loss.style_weight = 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"gram_normalize": "hw"},
        {"style_statistics": "both"},
        {"normalize_features": "channel"},
        {"input_size": 24},
        {"style_layers": ["conv1_1"]},
    ],
)
def test_kept_grams_are_of_the_settings_they_were_made_with(change: dict[str, object]) -> None:
    loss, x, y = perceptual(), images(2), images(2, seed=1)
    loss.set_style(STYLE)
    for name, value in change.items():
        setattr(loss, name, value)
    with pytest.raises(ValueError, match="style: expected style images, got None"):
        loss(x, y)
    loss.set_style(STYLE)
    torch.testing.assert_close(loss(x, y), perceptual(**change)(x, y, STYLE))


def test_layers_that_the_network_was_not_built_for() -> None:
    loss = perceptual()
    for layer, message in (("relu3_1", "none deeper than relu1_1, .*got relu3_1"), ("relu9", "got 'relu9'")):
        with pytest.raises(ValueError, match=f"content_layers: .*{message}"):
            loss.content_layers = [layer]
    own = po.PerceptualLoss(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), content_layers=["0"])
    with pytest.raises(ValueError, match=r"style_layers: .*got '1'"):
        own.style_layers = ["1"]


def test_spatial_needs_no_reduction() -> None:
    loss = lpips(reduction="mean")
    loss.spatial = True
    with pytest.raises(ValueError, match='reduction: expected "none" with spatial=True'):
        call(loss)


def test_settings_survive_a_move_and_a_cast() -> None:
    loss = perceptual()
    loss.input_range = (-1.0, 2.0)
    torch.testing.assert_close(call(loss.to(torch.float64)), call(perceptual(input_range=(-1.0, 2.0)).double()))

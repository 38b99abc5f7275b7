"""compat.torchmetrics against torchmetrics."""

from __future__ import annotations

import copy
import importlib
import pickle
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
    state,
    torchvision_gives,
)
from torch import Tensor, nn

peer("torchmetrics")  # before ours looks for it: beside a torchvision built for another torch it cannot be imported
torchmetrics = importlib.import_module("perceptual_ops.compat.torchmetrics")
_kept = importlib.import_module("perceptual_ops.compat._kept")

TRUNKS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
LPIPS = torchmetrics.LearnedPerceptualImagePatchSimilarity
DISTS = torchmetrics.DeepImageStructureAndTextureSimilarity


def their_loss(trunk: nn.Sequential, net_type: str, **settings: Any) -> nn.Module:
    module = peer("torchmetrics.image.lpip")
    with torchvision_gives(**{TRUNKS[net_type]: trunk}):
        return module.LearnedPerceptualImagePatchSimilarity(net_type, **settings)


def both(net_type: str = "alex", **settings: Any) -> tuple[Any, Any]:
    theirs = their_loss(features(TRUNKS[net_type]), net_type, **settings)
    return LPIPS(net_type, weights=state(TRUNKS[net_type]), **settings), theirs


def case(name: str, normalize: bool = False) -> tuple[Tensor, Tensor]:
    x, y = pairs()[name]
    return (x, y) if normalize else (2 * x - 1, 2 * y - 1)


def set_input_map(metric: Any, center: Tensor, deviation: Tensor) -> None:
    metric.net.scaling_layer.shift, metric.net.scaling_layer.scale = center, deviation


SETTINGS: list[dict[str, Any]] = [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"normalize": True, "reduction": None},
]


def test_arguments() -> None:
    for package, name in (("lpip", LPIPS), ("dists", DISTS)):
        theirs = getattr(peer(f"torchmetrics.image.{package}"), name.__name__)
        assert_same_arguments(name, theirs)
        assert_same_arguments(name.update, theirs.update)
    for package, name in (
        ("lpips", "learned_perceptual_image_patch_similarity"),
        ("dists", "deep_image_structure_and_texture_similarity"),
    ):
        theirs = peer(f"torchmetrics.functional.image.{package}")
        assert_same_arguments(getattr(torchmetrics, name), getattr(theirs, name))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_values_and_gradients(settings: dict[str, Any]) -> None:
    difference(*both(**settings), *case("batch", settings.get("normalize", False)), set_input_map).check()


@pytest.mark.parametrize("net_type", ["vgg", "squeeze"])
def test_networks(net_type: str) -> None:
    with torch.no_grad():
        ours, theirs = (metric(*case("batch")) for metric in both(net_type))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["odd size", "flat", "black"])
def test_pictures(name: str) -> None:
    difference(*both(), *case(name), set_input_map).check()


def test_eps_lies_inside_the_root() -> None:
    """Where features are as small as the eps, the place of it makes the number."""
    dim = copy.deepcopy(features("alexnet"))
    dim[0].weight *= 3e-5
    dim[0].bias *= 3e-5
    weights = {f"features.{key}": value for key, value in dim.state_dict().items()}
    ours = LPIPS(weights=weights)
    difference(ours, their_loss(dim, "alex"), *case("photograph"), set_input_map).check()
    ours.net._loss.eps, ours.net._loss.eps_inside = 1e-10, False
    assert not torch.allclose(ours(*case("photograph")), their_loss(dim, "alex")(*case("photograph")), rtol=1e-2)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_batches_are_collected(reduction: str) -> None:
    ours, theirs = both(reduction=reduction)
    batches = [case("batch"), case("photograph"), case("flat")]
    for metric in (ours, theirs):
        metric.update(*batches[0])
        assert metric(*batches[1]).shape == ()
        metric.update(*batches[2])
    torch.testing.assert_close(ours.compute(), theirs.compute(), rtol=1e-5, atol=0)
    assert ours.compute().dtype == theirs.compute().dtype
    for metric in (ours, theirs):
        metric.reset()
        metric.update(*batches[2])
    torch.testing.assert_close(ours.compute(), theirs.compute(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_training_steps_leave_no_graph(reduction: str) -> None:
    ours, _ = both(reduction=reduction)
    x, y = case("batch")
    x = x.clone().requires_grad_()
    for _ in range(2):
        ours(x, y).sum().backward()
    assert x.grad.any()
    kept = ours.all_scores if reduction == "none" else [ours.sum_scores]
    assert not any(scores.requires_grad for scores in kept)
    assert not ours.compute().requires_grad


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_states_of_processes_are_gathered(reduction: str) -> None:
    settings = {
        "dist_sync_fn": lambda state, group: [state, state],  # two processes with the same batches
        "distributed_available_fn": lambda: True,
    }
    together = LPIPS(reduction=reduction, weights=state("alexnet"), **settings)
    alone = LPIPS(reduction=reduction, weights=state("alexnet"))
    for metric in (together, alone):
        metric.update(*case("batch"))
        metric.update(*case("photograph"))
    expected = alone.compute()
    expected = expected.repeat(2) if reduction == "none" else expected * (2 if reduction == "sum" else 1)
    torch.testing.assert_close(together.compute(), expected)


def test_a_metric_that_copies_and_pickles() -> None:
    ours, _ = both()
    assert isinstance(ours, peer("torchmetrics").Metric)
    ours.update(*case("photograph"))
    for other in (ours.clone(), pickle.loads(pickle.dumps(ours))):
        assert_equal(other.compute(), ours.compute())
        assert_equal(other(*case("flat")), ours.clone()(*case("flat")))
    collection = peer("torchmetrics").MetricCollection({"lpips": ours})
    assert_equal(collection(*case("flat"))["lpips"], ours(*case("flat")))


def test_frozen() -> None:
    assert_frozen(both()[0])


@pytest.mark.parametrize(
    ("normalize", "low", "high", "message"),
    [
        (False, -1.1, 1.0, r"img1: expected values in \[-1, 1\] for normalize=False, got -1.1 to 1; clamp it"),
        (True, -0.1, 1.0, r"img1: expected values in \[0, 1\] for normalize=True, got -0.1 to 1"),
        (True, 0.0, 1.1, r"img1: expected values in \[0, 1\] for normalize=True, got 0 to 1.1"),
        (True, 0.0, float("nan"), "img1: expected values"),
    ],
)
def test_ranges(normalize: bool, low: float, high: float, message: str) -> None:
    ours, theirs = both(normalize=normalize)
    _, y = case("photograph", normalize=True)
    x = torch.where(y < 0.5, low, high)
    for metric in (ours, theirs):
        with pytest.raises(ValueError, match=message if metric is ours else "Expected both input arguments"):
            metric.update(x, y)
    with pytest.raises(ValueError, match=message.replace("img1", "img2")):
        ours(y, x)
    LPIPS(normalize=normalize, weights=state("alexnet"), check_range=False).update(x, y)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_batch_that_is_refused_changes_nothing(reduction: str) -> None:
    ours, _ = both(reduction=reduction)
    x, y = case("batch")
    ours.update(x, y)
    expected = ours.compute()
    with pytest.raises(ValueError, match="img2: expected values in"):
        ours(x, y - 3)
    assert_equal(ours.compute(), expected)
    ours.update(x.clone().requires_grad_(), y)
    assert not ours.compute().requires_grad


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")  # torchmetrics' own
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nothing_to_compute(reduction: str) -> None:
    ours, _ = both(reduction=reduction)
    with pytest.raises(RuntimeError, match="compute: expected image pairs first, got none"):
        ours.compute()
    nothing = torch.empty(0, 3, 36, 36)
    assert not ours(nothing, nothing).any()
    ours.update(*case("photograph"))
    ours.update(nothing, nothing)
    assert ours.compute() == both(reduction=reduction)[0](*case("photograph"))


def test_images_that_are_no_tensors() -> None:
    y = case("photograph", normalize=True)[1]
    similarity = torchmetrics.learned_perceptual_image_patch_similarity
    structure = torchmetrics.deep_image_structure_and_texture_similarity
    for name, call in {
        "img2": lambda: both()[0](y, None),
        "target": lambda: DISTS(weights=state("vgg16")).update(y, None),
        "img1": lambda: similarity(None, y, weights=state("alexnet")),
        "preds": lambda: structure(None, y, weights=state("vgg16")),
    }.items():
        with pytest.raises(TypeError, match=f"{name}: expected a tensor of images"):
            call()


def test_no_upper_end_without_normalize() -> None:
    x, y = case("photograph")
    difference(*both(), 1.5 + x, y, set_input_map).check()


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="net_type: expected one of 'alex', 'vgg', 'squeeze'; got 'vgg16'"):
        LPIPS("vgg16")
    with pytest.raises(ValueError, match="reduction: expected one of 'mean', 'sum', 'none'; got 'max'"):
        LPIPS(reduction="max", weights="random")
    with pytest.raises(ValueError, match="normalize: expected True or False, got 1"):
        LPIPS(normalize=1, weights="random")
    with pytest.raises(ValueError, match="reduction: expected one of 'mean', 'sum'; got 'none'"):
        DISTS("none", weights="random")


# ---- the function ----


@pytest.fixture
def no_networks_kept() -> Any:
    _kept._kept.cache_clear()
    yield
    _kept._kept.cache_clear()


@pytest.mark.usefixtures("no_networks_kept")
def test_function(tmp_path: Path) -> None:
    theirs = peer("torchmetrics.functional.image.lpips").learned_perceptual_image_patch_similarity
    ours = torchmetrics.learned_perceptual_image_patch_similarity
    with hub_cache(tmp_path, alexnet="alexnet-owt-7be5be79.pth"), torchvision_gives(alexnet=features("alexnet")):
        for settings in ({}, {"reduction": "sum", "normalize": True}, {"reduction": "none"}):
            for name in ("batch", "photograph"):  # one pair gives a scalar, whatever the reduction
                pair = case(name, settings.get("normalize", False))
                torch.testing.assert_close(ours(*pair, **settings), theirs(*pair, **settings), rtol=1e-5, atol=0)
        double = [images.double() for images in case("photograph")]
        assert ours(*double).dtype == torch.float64
        assert _kept._kept.cache_info().misses == 2  # of seven calls: one in each dtype
    (gradient,) = torch.autograd.grad(ours(double[0].requires_grad_(), double[1]), double[0])
    assert gradient.any()
    with pytest.raises(ValueError, match="img1: expected values in"):
        ours(3 * double[0], double[1])

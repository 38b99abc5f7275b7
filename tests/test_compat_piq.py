"""compat.piq against piq."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from maps import assert_accurate
from peers import (
    assert_equal,
    assert_frozen,
    assert_same_arguments,
    crop,
    difference,
    exact_dists_numbers,
    features,
    hub_cache,
    pairs,
    peer,
    run,
    state,
    torchvision_gives,
    worse,
)
from torch import Tensor, nn

from perceptual_ops.compat import piq
from perceptual_ops.compat.piq import metrics

CHANNELS = (64, 128, 256, 512, 512)


def numbers(*shape: int, seed: int = 4) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def linear() -> list[Tensor]:
    """What piq's LPIPS downloads: the weights of each layer."""
    return [numbers(1, count, 1, 1, seed=count) for count in CHANNELS]


def their_loss(kind: str, **settings: Any) -> nn.Module:
    """piq's, over the random networks, and with the numbers of this module where piq downloads some."""
    module = peer("piq")
    downloads = {"LPIPS": linear(), "DISTS": exact_dists_numbers()}
    with pytest.MonkeyPatch.context() as patch, torchvision_gives(vgg16=features("vgg16"), vgg19=features("vgg19")):
        patch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: downloads[kind])
        loss = getattr(module, kind)(**settings)
    if all("1_" in layer or "2_" in layer or layer == "pool1" for layer in settings.get("layers", ["5_3"])):
        loss.model = loss.model[:10]  # the others would run for nothing, up to the last pooling
    return loss


def our_loss(kind: str, **settings: Any) -> nn.Module:
    if kind in ("ContentLoss", "StyleLoss"):
        network = settings.get("feature_extractor", "vgg16")
        own = {"network_weights": state(network)} if isinstance(network, str) else {}
    else:
        own = {"weights": state("vgg16")}
        own |= {"linear": linear()} if kind == "LPIPS" else {"alpha_beta": exact_dists_numbers()}
    return getattr(piq, kind)(**settings, **own)


def set_input_map(loss: Any, center: Tensor, deviation: Tensor) -> None:
    loss.mean, loss.std = center, deviation


def encoder() -> nn.Sequential:
    """A network of one's own, with an activation in place and a block."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = nn.Sequential(nn.Conv2d(8, 12, 3), nn.ReLU(inplace=True))
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ELU(inplace=True), nn.MaxPool2d(3, 1), block, nn.Conv2d(12, 4, 1))


CASES: list[tuple[str, dict[str, Any]]] = [
    ("ContentLoss", {}),  # relu3_3
    ("ContentLoss", {"reduction": "none", "distance": "mae", "feature_extractor": "vgg19", "layers": ("relu2_1",)}),
    # Conv taps come after their ReLU, and the weights go by the network's order.
    ("ContentLoss", {"layers": ("conv2_2", "relu1_2", "relu2_2"), "weights": [2.0, 0.5, 1.0], "reduction": "sum"}),
    ("ContentLoss", {"layers": ("relu1_2", "pool1"), "weights": [0.75, 0.25], "replace_pooling": True}),
    ("ContentLoss", {"layers": ("relu1_2", "relu2_2"), "weights": [0.75, 0.25], "normalize_features": True}),
    ("ContentLoss", {"layers": ("relu2_2",), "normalize_features": True, "distance": "mae"}),
    ("ContentLoss", {"layers": ("relu1_2", "relu2_2"), "weights": [numbers(1, 64, 1, 1), 0.5]}),
    ("ContentLoss", {"layers": ("relu1_1",), "weights": [numbers(1, 1, 36, 40)], "normalize_features": True}),
    ("ContentLoss", {"layers": ("relu2_1", "relu1_1"), "weights": [0.25], "allow_layers_weights_mismatch": True}),
    ("ContentLoss", {"feature_extractor": encoder(), "layers": ("0", "3", "4"), "weights": [1.0, 2.0, 3.0]}),
    ("ContentLoss", {"feature_extractor": encoder(), "layers": ("2", "4"), "weights": [1, 2], "replace_pooling": True}),
    ("StyleLoss", {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}),
    ("StyleLoss", {"layers": ("conv2_2", "relu1_2"), "weights": [2.0, 0.5], "reduction": "none", "distance": "mae"}),
    ("StyleLoss", {"layers": ("relu2_2",), "weights": [numbers(128, 128)], "reduction": "sum"}),
    ("StyleLoss", {"layers": ("relu2_1",), "normalize_features": True}),
    ("StyleLoss", {"feature_extractor": encoder(), "layers": ("0", "2"), "weights": [1.0, 2.0]}),
    ("LPIPS", {"reduction": "none"}),
    ("LPIPS", {"distance": "mae"}),
    ("LPIPS", {"replace_pooling": True, "reduction": "sum"}),
    ("DISTS", {"reduction": "none", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}),
]


def name_of(value: object) -> str:
    return value if isinstance(value, str) else ", ".join(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", piq.__all__)
def test_arguments(kind: str) -> None:
    ours, theirs = getattr(piq, kind), getattr(peer("piq"), kind)
    assert_same_arguments(ours, theirs)
    for method in ("forward", "get_features", "compute_distance", "normalize", "replace_pooling", "gram_matrix"):
        if hasattr(theirs, method):
            assert_same_arguments(getattr(ours, method), getattr(theirs, method))


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=name_of)
def test_values_and_gradients(kind: str, settings: dict[str, Any]) -> None:
    ours = our_loss(kind, **settings)
    theirs = their_loss(kind, **copy.deepcopy(settings))  # piq replaces the pooling in the module it is given
    difference(ours, theirs, *pairs()["batch"], set_input_map).check()


@pytest.mark.parametrize("kind", ["ContentLoss", "StyleLoss"])
@pytest.mark.parametrize("case", ["odd size", "flat", "black"])
def test_pictures(kind: str, case: str) -> None:
    settings = {"layers": ("relu1_2", "relu2_2"), "weights": [1.0, 0.5]}
    difference(our_loss(kind, **settings), their_loss(kind, **settings), *pairs()[case], set_input_map).check()


@pytest.mark.parametrize("kind", ["ContentLoss", "StyleLoss"])
def test_gradient_by_the_second(kind: str) -> None:
    def swapped(loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return loss(y, x)

    losses = our_loss(kind, layers=("relu2_2",)), their_loss(kind, layers=("relu2_2",))
    difference(*losses, *pairs()["photograph"], set_input_map, swapped).check()


@pytest.mark.parametrize("settings", [{}, {"normalize_features": True}], ids=str)
def test_the_same_picture_has_no_distance_and_no_gradient(settings: dict[str, Any]) -> None:
    x, _ = pairs()["photograph"]
    value, gradient = run(our_loss("ContentLoss", layers=("relu2_2",), **settings), x, x.clone())
    assert not value
    assert not gradient.any()


def test_normalised_conv_layers() -> None:
    """Before their ReLU here, too; piq cannot run backward through them."""
    settings = {"layers": ("conv2_2",), "normalize_features": True}
    ours, theirs = our_loss("ContentLoss", **settings), their_loss("ContentLoss", **settings)
    torch.testing.assert_close(ours(*pairs()["batch"]), theirs(*pairs()["batch"]), rtol=1e-5, atol=0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        run(theirs, *pairs()["batch"])
    assert run(ours, *pairs()["batch"])[1].any()


def test_layers_as_named() -> None:
    """What piq's arguments promise: conv layers before their ReLU, and each weight for the layer at its place."""
    x, y = pairs()["batch"]
    network = features("vgg16")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    maps = [((images - mean) / std) for images in (x, y)]
    values = {}
    for name, layer in zip(("conv1_1", "relu1_1", "conv1_2"), network, strict=False):
        maps = [layer(map_.clone()) for map_ in maps]
        values[name] = (maps[0] - maps[1]).square().mean((2, 3)).sum(1)
    ours = our_loss("ContentLoss", layers=("conv1_2", "relu1_1"), weights=[2.0, 0.5], reduction="none", as_named=True)
    torch.testing.assert_close(ours(x, y), 2.0 * values["conv1_2"] + 0.5 * values["relu1_1"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("sum_of_distances", [False, True])
def test_sum_of_dists(sum_of_distances: bool) -> None:
    x, y = pairs()["batch"]
    ours = our_loss("DISTS", reduction="sum", sum_of_distances=sum_of_distances)
    with torch.no_grad():
        expected = their_loss("DISTS", reduction="sum")(x, y)
        torch.testing.assert_close(ours(x, y), expected + (len(x) - 1) * sum_of_distances, rtol=1e-5, atol=1e-6)


def test_dists_takes_piqs_numbers_as_they_are() -> None:
    halved = {name: 0.4 * value for name, value in exact_dists_numbers().items()}
    ours = piq.DISTS(weights=state("vgg16"), alpha_beta=halved)
    whole = piq.DISTS(weights=state("vgg16"), alpha_beta=exact_dists_numbers())
    with torch.no_grad():
        torch.testing.assert_close(ours(*pairs()["batch"]), 0.6 + 0.4 * whole(*pairs()["batch"]))


def test_dists_scales_large_images_down() -> None:
    y = crop("astronaut", 257, 257)
    x = worse(y)
    with torch.no_grad():
        torch.testing.assert_close(our_loss("DISTS")(x, y), their_loss("DISTS")(x, y), rtol=1e-5, atol=1e-6)


def test_dists_may_leave_large_images(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = pairs()["photograph"]
    expected = our_loss("DISTS")(x, y)
    monkeypatch.setattr(metrics, "LARGEST", 33)
    assert_equal(our_loss("DISTS", resize=False)(x, y), expected)
    assert not torch.allclose(our_loss("DISTS")(x, y), expected, rtol=1e-3)


@pytest.mark.parametrize("kind", ["ContentLoss", "StyleLoss", "LPIPS", "DISTS"])
def test_frozen(kind: str) -> None:
    assert_frozen(our_loss(kind))


@pytest.mark.parametrize("kind", ["ContentLoss", "StyleLoss", "LPIPS", "DISTS"])
def test_images_that_are_no_tensors(kind: str) -> None:
    large = torch.zeros(1, 3, 257, 257)  # DISTS would scale it down first
    with pytest.raises(TypeError, match="y: expected a tensor of images"):
        our_loss(kind)(large, None)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("norm_type", ["l1", "l2", "l2_squared"])
def test_total_variation(norm_type: str, reduction: str) -> None:
    loss, theirs = (module.TVLoss(norm_type, reduction) for module in (piq, peer("piq")))
    x, y = pairs()["batch"]

    def call(loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return loss(x)

    for ours, naive, exact in zip(
        run(loss, x, y, call), run(theirs, x, y, call), run(theirs, x.double(), y, call), strict=True
    ):
        assert_accurate(ours, naive, exact)
    flat = pairs()["flat"]
    assert not run(loss, *flat, call)[1].any()
    assert run(theirs, *flat, call)[1].isnan().all() == (norm_type == "l2")  # what the docstring says of piq's


def test_total_variation_of_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="norm_type: expected one of 'l1', 'l2_squared', 'l2'; got 'l3'"):
        piq.TVLoss("l3")
    with pytest.raises(ValueError, match="reduction: expected one of 'mean', 'sum', 'none'; got 'max'"):
        piq.TVLoss(reduction="max")


def test_a_module_stays_as_it_was() -> None:
    own = encoder().train()
    before = copy.deepcopy(own.state_dict())
    piq.ContentLoss(own, ("2",), replace_pooling=True)(*pairs()["photograph"])
    assert isinstance(own[2], nn.MaxPool2d)
    assert own.training
    assert own[1].inplace
    assert all(parameter.requires_grad for parameter in own.parameters())
    assert all(value.equal(before[key]) for key, value in own.state_dict().items())


def test_weights_from_the_hub_cache(tmp_path: Path) -> None:
    pair = pairs()["photograph"]
    with hub_cache(tmp_path, vgg16="vgg16-397923af.pth"):
        assert_equal(piq.ContentLoss()(*pair), our_loss("ContentLoss")(*pair))
        assert_equal(piq.LPIPS(linear=linear())(*pair), our_loss("LPIPS")(*pair))
        assert_equal(piq.DISTS(alpha_beta=exact_dists_numbers())(*pair), our_loss("DISTS")(*pair))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feature_extractor": "alexnet"}, "feature_extractor: expected one of 'vgg16', 'vgg19'; got 'alexnet'"),
        ({"layers": ("relu3_4",)}, "layers: expected some of conv1_1, relu1_1, .*; got 'relu3_4'"),
        ({"layers": ("relu1_1", "relu2_1")}, "weights: expected 2, one for each layer; got 1"),
        ({"distance": "l2"}, "distance: expected one of 'mse', 'mae'; got 'l2'"),
        ({"weights": [torch.ones(1, 256, 1, 1, requires_grad=True)]}, r"weights\[0\]: expected no requires_grad"),
    ],
)
def test_wrong_arguments(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        piq.ContentLoss(**settings, network_weights="random")

"""Layers, poolings, distances, metrics and normalisations that a place was not taught raise there, whoever lists them.

Each is announced where names are checked, as one would who adds it, so that the places behind the checks are reached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from bench.suites.metrics import own_metric
from perceptual_ops import _checks as checks
from perceptual_ops import ops, reference
from perceptual_ops.engine import distances, metric_op, stages, style_parts, tiles
from perceptual_ops.engine.autograd import graph_loss
from perceptual_ops.engine.masks import at_layer
from perceptual_ops.engine.perceptual_head import PerceptualHead
from perceptual_ops.engine.terms import Part, Terms, compared
from perceptual_ops.engine.trunk import Trunk
from perceptual_ops.networks import Conv, FeatureNetwork, Pool, Relu, layers
from perceptual_ops.networks import feature_network as networks
from perceptual_ops.networks.layers import convolutions_of, smallest_sizes
from perceptual_ops.networks.state_dicts import _places

Place = Callable[[], object]


@dataclass(frozen=True)
class Sharpen:
    """A layer that nobody has heard of."""

    name: str

    def output_size(self, size: int) -> int:
        return size


CONV, RELU = Conv("conv", 3, 4), Relu("relu")
STRANGE = (CONV, RELU, Sharpen("sharpen"), Conv("next", 4, 4))
MEDIAN = Pool("pool", 4, kind="median")  # type: ignore[arg-type]


def network_of(*layers: object) -> FeatureNetwork:
    """A network that claims to be made of some layers."""
    network = FeatureNetwork("net", [CONV, RELU], ["relu"])
    network.layers = tuple(layers)  # type: ignore[arg-type]
    return network


def trunk_of(*layers: object) -> Trunk:
    """A trunk that claims to be made of some layers."""
    trunk = Trunk(network_of(CONV, RELU))
    trunk.network.layers = tuple(layers)  # type: ignore[arg-type]
    return trunk


def maps(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last)


LAYERS: dict[str, Place] = {
    "stages_of": lambda: stages.stages_of(STRANGE),
    "cut_of": lambda: tiles.cut_of([*STRANGE, Pool("pool", 4), Conv("last", 4, 4)], ["last"]),
    "tiles_of": lambda: tiles.tiles_of(STRANGE, ["next"], (64, 64), 32),
    "Trunk": lambda: Trunk(network_of(*STRANGE)),
    "Trunk.sizes": lambda: trunk_of(*STRANGE).sizes(32, 32),
    "Trunk.forward": lambda: trunk_of(*STRANGE[:3]).features(maps(1, 3, 8, 8), ["sharpen"], False),
    "FeatureNetwork": lambda: FeatureNetwork("net", STRANGE, ["next"]),
    "FeatureNetwork.forward": lambda: network_of(*STRANGE)._run_layer(STRANGE[2], maps(1, 3, 8, 8), False),
    "convolutions_of": lambda: convolutions_of(STRANGE),
    "places of a state dict": lambda: _places(STRANGE, 1),
}


@pytest.mark.parametrize("place", LAYERS)
def test_an_unknown_layer_is_refused(place: str) -> None:
    with pytest.raises((TypeError, ValueError), match=r"(layer|network): expected .*Sharpen|is_chain"):
        LAYERS[place]()


def test_a_network_with_an_unknown_layer_is_no_chain() -> None:
    assert network_of(CONV, RELU).is_chain
    assert not network_of(*STRANGE).is_chain


@pytest.mark.parametrize("pool", [MEDIAN, Pool("pool", 4, ceil=True)], ids=["kind", "ceil"])
def test_a_network_with_an_unknown_pooling_is_no_chain(pool: Pool) -> None:
    assert not network_of(CONV, RELU, pool).is_chain
    with pytest.raises(ValueError, match="is_chain"):
        Trunk(network_of(CONV, RELU, pool))
    with pytest.raises(ValueError, match=r"layer: expected .*Pool"):
        stages.stages_of([CONV, pool])
    with pytest.raises(ValueError, match=r"layer: expected .*Pool"):
        tiles._window(pool)


POOLINGS: dict[str, Place] = {
    "Pool.output_size": lambda: MEDIAN.output_size(8),
    "smallest_sizes": lambda: smallest_sizes([MEDIAN]),
    "_window": lambda: tiles._window(MEDIAN),
    "_spread": lambda: stages._spread(MEDIAN),
    "its module": lambda: networks._module(MEDIAN),
    "FeatureNetwork": lambda: FeatureNetwork("net", [CONV, RELU, MEDIAN], ["pool"], None),
    "FeatureNetwork, by name": lambda: FeatureNetwork("net", [CONV, Pool("pool", 4)], ["pool"], "median"),  # type: ignore[arg-type]
    "its operator": lambda: torch.ops.perceptual_ops.bias_relu_pool(maps(1, 4, 8, 8), None, True, "median", 2, 2, True),
    "its fake": lambda: torch.ops.perceptual_ops.bias_relu_pool(
        maps(1, 4, 8, 8).to("meta"), None, True, "median", 2, 2, True
    ),
}


@pytest.mark.parametrize("announced", [False, True])
@pytest.mark.parametrize("place", POOLINGS)
@pytest.mark.usefixtures("library")
def test_an_unknown_pooling_is_refused(place: str, announced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if announced:
        listed = layers.POOLINGS
        for module in (layers, networks, stages, tiles):
            monkeypatch.setattr(module, "POOLINGS", (*listed, "median"))
    with pytest.raises((ValueError, RuntimeError), match=r"(kind|layer|pooling): expected .*median"):
        POOLINGS[place]()


def terms_of(of: str, normalize_features: str = "none") -> Terms:
    """One content or style layer "a"."""
    part, none = Part(("a",), (1.0,), "cubic", 0.5), Part((), (), "mse", 0.0)
    return Terms(*((part, none) if of == "content" else (none, part)), "chw", 0.0, normalize_features)


def head_of(of: str, normalize_features: str = "none") -> PerceptualHead:
    contents, grams = ([maps(1, 4, 5, 5)], []) if of == "content" else ([], [torch.ones(1, 4, 4)])
    terms = terms_of(of, normalize_features)
    return PerceptualHead(terms, torch.float32, contents, grams, True, False)


def met(head: PerceptualHead) -> dict[str, torch.Tensor]:
    head.on_tap("a", X)
    return head.terms()


X = maps(1, 4, 5, 5)
DISTANCES: dict[str, Place] = {
    "its parameter": lambda: checks.check_distance("cubic", 1e-6, 1.0),
    "reference": lambda: reference.distance_map(X, "cubic", 0.0),
    "reference, mean or sum": lambda: reference.sample_distances(X, "cubic", 0.0),
    "reference.feature_loss": lambda: reference.feature_loss([X], [X], distance="cubic"),
    "feature_loss": lambda: ops.feature_loss([X], [X], distance="cubic", backend="native"),
    "its operator": lambda: torch.ops.perceptual_ops.feature_loss([X], [X], [1.0], "cubic", 0.0),
    "its operator with gradient": lambda: torch.ops.perceptual_ops.feature_loss_with_gradient(
        [X], [X], [1.0], "cubic", 0.0
    ),
    "its bound in fp16": lambda: distances.OfErrors("cubic", 0.5, 1.0).bound(X, X),
    "masked": lambda: distances.OfMaskedErrors("cubic", 0.5, 1.0, at_layer(X[:, :1], "a", 5, 5)).values(X, X),
    "masked, its slope": lambda: distances.OfMaskedErrors("cubic", 0.5, 1.0, at_layer(X[:, :1], "a", 5, 5))._slope(X),
    "masked, by ordinary autograd": lambda: graph_loss(
        terms_of("content"), lambda x, _: [x], X, None, [X], [], None, "reference", X[:, :1]
    ),
    "content of a loss": lambda: head_of(of="content").on_tap("a", X),
    "content of a loss in fp16": lambda: head_of(of="content").on_tap("a", X.half()),
    "style of a loss": lambda: met(head_of(of="style")),
}


@pytest.mark.parametrize("announced", [False, True])
@pytest.mark.parametrize("place", DISTANCES)
@pytest.mark.usefixtures("library")
def test_an_unknown_distance_is_refused(place: str, announced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if announced:
        monkeypatch.setattr(checks, "DISTANCES", (*checks.DISTANCES, "cubic"))
    with pytest.raises((ValueError, RuntimeError), match=r"distance: expected .*cubic"):
        DISTANCES[place]()


OTHERS: dict[str, tuple[str, Place]] = {
    "metric": ("metric: expected .*ssim", lambda: metric_op.MetricSettings(("relu1",), "ssim").of([torch.ones(3)])),
    "metric of bench": ("metric: expected .*ssim", lambda: own_metric("ssim")),
    "features": (
        "normalize_features: expected .*'layer'",
        lambda: head_of(of="content", normalize_features="layer").on_tap("a", X),
    ),
    "features of ordinary autograd": (
        "normalize_features: expected .*'layer'",
        lambda: graph_loss(terms_of("content", "layer"), lambda x, _: [x], X, None, [X], [], None, "reference"),
    ),
    "style": ("style_statistics: expected .*'max'", lambda: compared("max")),
    "Gram": ("normalize: expected .*'c'", lambda: reference.raw_gram_matrix(X, "c")),
    "Gram's operator": ("normalize: expected .*c", lambda: torch.ops.perceptual_ops.gram_matrix(X, "c")),
    "Gram of masked features": (
        "normalize: expected .*'c'",
        lambda: style_parts.masked_divisor("c", 4, X[:, :1, :1, 0]),
    ),
    "variation": ("kind: expected .*l3", lambda: reference.variation(X, "l3")),
    "variation's operator": ("kind: expected .*l3", lambda: torch.ops.perceptual_ops.total_variation(X, "l3")),
    "total_variation": ("kind: expected .*l3", lambda: ops.total_variation(X, "l3")),
    "reference.total_variation": ("kind: expected .*l3", lambda: reference.total_variation(X, "l3")),
    "reduction": ("reduction: expected .*max", lambda: checks.reduce(torch.ones(3), "max")),
}


@pytest.mark.parametrize("place", OTHERS)
@pytest.mark.usefixtures("library")
def test_an_unknown_name_is_refused(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "VARIATIONS", (*checks.VARIATIONS, "l3"))
    sentence, call = OTHERS[place]
    with pytest.raises((ValueError, RuntimeError), match=sentence):
        call()


def test_every_pooling_that_is_listed_has_a_module_and_a_size() -> None:
    for kind in networks.POOLINGS:
        pool = replace(MEDIAN, kind=kind)
        assert networks._module(pool)(maps(1, 4, 9, 9)).shape[2] == pool.output_size(9)

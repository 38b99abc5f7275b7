"""What type checkers believe holds when the library runs; tests/typing_cases.py is what they read."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any, get_args

import pytest
from peer_torchvision import import_torchvision
from torch import nn

import perceptual_ops as po
from perceptual_ops import distributed, names
from perceptual_ops.compat import basicsr, dists, lpips, lpips_pytorch, piq, piqa, taming
from perceptual_ops.losses import arguments
from perceptual_ops.losses.lpips import LAYERS
from perceptual_ops.losses.presets import PRESETS
from perceptual_ops.networks import ALIASES, ARCHITECTURES, FeatureNetwork, ModuleFeatures
from perceptual_ops.networks.published import PUBLISHED

import_torchvision()  # before ours looks for torchmetrics, see test_compat_torchmetrics
torchmetrics = importlib.import_module("perceptual_ops.compat.torchmetrics")

# The names that a type lists, and those that the library has something for.
NAMED: dict[str, tuple[Any, Collection[str]]] = {
    "Alias": (names.Alias, ALIASES),
    "Architecture": (names.Architecture, ARCHITECTURES),
    "LpipsTrunk": (names.LpipsTrunk, LAYERS),
    "PublishedName": (names.PublishedName, PUBLISHED),
    "NetworkName": (names.NetworkName, [*arguments.NETWORK_NAMES, *ALIASES]),
    "Preset": (names.Preset, PRESETS),
    "Criterion": (basicsr.perceptual.Criterion, basicsr.perceptual.DISTANCES),
    "DistanceName": (piq.arguments.DistanceName, piq.arguments.DISTANCES),
}


@pytest.mark.parametrize("name", NAMED)
def test_types_list_the_names_there_are(name: str) -> None:
    kind, known = NAMED[name]
    assert sorted(get_args(kind)) == sorted(known)


@pytest.mark.parametrize(
    "kind",
    [
        po.PerceptualLoss, po.LPIPS, po.DISTS, distributed.Sharded, FeatureNetwork, ModuleFeatures,
        lpips.LPIPS, lpips_pytorch.LPIPS, taming.LPIPS, piqa.LPIPS, dists.DISTS,
        piq.ContentLoss, piq.StyleLoss, piq.LPIPS, piq.DISTS, piq.TVLoss,
        basicsr.PerceptualLoss, basicsr.WeightedTVLoss,
        torchmetrics.LearnedPerceptualImagePatchSimilarity, torchmetrics.DeepImageStructureAndTextureSimilarity,
    ],
    ids=lambda kind: f"{kind.__module__}.{kind.__name__}",
)  # fmt: skip
def test_calls_are_typed_for_checkers_alone(kind: type[nn.Module]) -> None:
    """Hooks, torch.compile and torch.jit need torch's own."""
    assert kind.__call__ is nn.Module.__call__

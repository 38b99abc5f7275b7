"""The packages people use for LPIPS and DISTS today, as modules with the numbers of our random trunks.

None of them is needed: what is not installed is left out of a bench with a sentence, and its test is skipped.
"""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from unittest import mock

import torch
from torch import Tensor, nn

from perceptual_ops import load_network
from perceptual_ops.networks.metric_weights import dists_weights

_operators: list[torch.library.Library] = []  # a Library takes its definitions along when it is collected


def import_torchvision() -> ModuleType:
    """The torchvision package, even where its compiled operators do not fit the installed torch.

    Its usual wheel is built for a CUDA torch: beside a CPU one it cannot load its operators, and the import fails on
    the first it mentions. With two of them defined by name it imports; none of them is ever called.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _operators.append(library)
        import torchvision
    return torchvision


USUAL_INSTALLATION = "pip install --no-deps -r requirements-data.txt"
INSTALLATION = {
    # On no package index.
    "memsave_torch": "pip install --no-deps git+https://github.com/plutonium-239/memsave_torch",
}


@functools.cache
def missing(package: str) -> str:
    """Why a peer cannot be had; empty where it can, and for no peer."""
    if not package:
        return ""
    try:
        import_torchvision()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(package)
    except ImportError as failure:
        return f"{package} is left out: {failure}; {INSTALLATION.get(package, USUAL_INSTALLATION)}"
    return ""


@contextmanager
def _untrained(torchvision: ModuleType) -> Iterator[None]:
    """torchvision's networks without the trained weights that a peer asks for, which would be downloaded."""
    models = torchvision.models
    with mock.patch.multiple(
        models,
        vgg16=functools.partial(_without_weights, models.vgg16),
        alexnet=functools.partial(_without_weights, models.alexnet),
        squeezenet1_1=functools.partial(_without_weights, models.squeezenet1_1),
    ):
        yield


def _without_weights(build, **_):
    """With features of any numbers; the classifier, nine tenths of them, is never made."""
    with torch.device("meta"):
        network = build(weights=None)
    network.features.to_empty(device="cpu")
    return network


def _take_trunk(peer: nn.Module, network: str) -> None:
    """Gives a peer's trunk the numbers of `weights="random"`."""
    own = [layer for layer in load_network(network, "random").modules() if isinstance(layer, nn.Conv2d)]
    # Linear weights are convolutions too, with one channel and no bias.
    theirs = [layer for layer in peer.modules() if isinstance(layer, nn.Conv2d) and layer.bias is not None]
    for mine, other in zip(own, theirs, strict=True):
        other.load_state_dict(mine.state_dict())


NETWORKS = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet1_1"}


def lpips(net: str, layout: torch.memory_format = torch.contiguous_format) -> nn.Module:
    """The package lpips: images (N, 3, H, W) in [-1, 1] -> (N, 1, 1, 1)."""
    with _untrained(import_torchvision()):
        import lpips

        module = lpips.LPIPS(net=net, verbose=False)
    _take_trunk(module, NETWORKS[net])
    return module.to(memory_format=layout)


def torchmetrics_lpips(net: str) -> nn.Module:
    """torchmetrics' module: images (N, 3, H, W) in [-1, 1] -> the mean."""
    with _untrained(import_torchvision()):
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        module = LearnedPerceptualImagePatchSimilarity(net_type=net)
    _take_trunk(module, NETWORKS[net])
    return module


class PeerDists(nn.Module):
    """The package DISTS-pytorch: images (N, 3, H, W) in [0, 1] -> (N); without the file it seeks beside Python."""

    def __init__(self) -> None:
        super().__init__()
        with _untrained(import_torchvision()):
            from DISTS_pytorch import DISTS

            self.dists = DISTS(load_weights=False)
        _take_trunk(self.dists, "vgg16")
        for own, numbers in zip((self.dists.alpha, self.dists.beta), dists_weights(None), strict=True):
            own.data.copy_(torch.cat(numbers).view_as(own))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.dists(output, target, require_grad=torch.is_grad_enabled())

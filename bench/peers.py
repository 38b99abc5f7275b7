"""The packages people use for perceptual losses today, as modules with the numbers of our random trunks.

None of them is needed: what is not installed is left out of a bench with a sentence, and its test is skipped.
"""

from __future__ import annotations

import functools
import importlib
import sys
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch
from torch import Tensor, nn

import perceptual_ops
from perceptual_ops import load_network
from perceptual_ops.networks import IMAGENET_MEAN, IMAGENET_STD
from perceptual_ops.networks.metric_weights import dists_weights, linear_weights

from .plain import CONTENT_WEIGHT, STYLE_WEIGHT

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
    "pyiqa": "pip install pyiqa",
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


# Modules with torchvision's networks under names of their own.
BORROWERS = ("piq.perceptual", "torchmetrics.functional.image.dists")


@contextmanager
def _untrained(*borrowers: str) -> Iterator[None]:
    """torchvision's networks without the trained weights that a peer asks for, which would be downloaded.

    Args:
        borrowers: Some of `BORROWERS`.
    """
    models = import_torchvision().models
    untrained = {name: functools.partial(_without_weights, getattr(models, name)) for name in TRUNKS}
    with ExitStack() as patches:
        for module in (models, *map(importlib.import_module, borrowers)):
            held = {name: build for name, build in untrained.items() if hasattr(module, name)}
            patches.enter_context(mock.patch.multiple(module, **held))
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
    # Linear weights are convolutions too, with one channel and no bias; of a chain, deeper layers may be unused.
    theirs = [layer for layer in peer.modules() if isinstance(layer, nn.Conv2d) and layer.bias is not None]
    for mine, other in zip(own, theirs, strict=True):
        other.load_state_dict(mine.state_dict())


LPIPS_WEIGHTS = Path(perceptual_ops.__file__).parent / "networks" / "data"
TRUNKS = ("vgg16", "alexnet", "squeezenet1_1")
NETWORKS = {"lpips-vgg": "vgg16", "lpips-alex": "alexnet", "lpips-squeeze": "squeezenet1_1"}


def lpips(metric: str, layout: torch.memory_format = torch.contiguous_format) -> nn.Module:
    """The package lpips: images (N, 3, H, W) in [-1, 1] -> (N, 1, 1, 1)."""
    with _untrained():
        import lpips

        module = lpips.LPIPS(net=metric.removeprefix("lpips-"), verbose=False)
    _take_trunk(module, NETWORKS[metric])
    return module.to(memory_format=layout)


def torchmetrics_lpips(metric: str) -> nn.Module:
    """torchmetrics' module: images (N, 3, H, W) in [-1, 1] -> the mean."""
    with _untrained():
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        module = LearnedPerceptualImagePatchSimilarity(net_type=metric.removeprefix("lpips-"))
    _take_trunk(module, NETWORKS[metric])
    return module


class OfUnitRange(nn.Module):
    """A metric of images in [0, 1], given images in [-1, 1]."""

    def __init__(self, metric: nn.Module) -> None:
        super().__init__()
        self.metric = metric

    def forward(self, output: Tensor, target: Tensor) -> Tensor:  # (N, 3, H, W) each
        return self.metric((output + 1) / 2, (target + 1) / 2)


def _piq(kind: str, learned: object = None, **settings: object) -> nn.Module:
    """A loss of piq's; `learned` is what it would download."""
    import_torchvision()
    piq = importlib.import_module("piq")
    with _untrained("piq.perceptual"), mock.patch("torch.hub.load_state_dict_from_url", lambda *args, **kw: learned):
        module = getattr(piq, kind)(**settings)
    _take_trunk(module.model, "vgg16")
    return module


def piq_lpips(metric: str) -> nn.Module:
    """piq's LPIPS by VGG16: images (N, 3, H, W) in [-1, 1] -> the mean."""
    channels = (64, 128, 256, 512, 512)
    weights = [weight.view(1, -1, 1, 1) for weight in linear_weights(True, "vgg16", "0.1", "random", channels)]
    return OfUnitRange(_piq("LPIPS", weights))


def piq_dists(metric: str) -> nn.Module:
    """piq's DISTS: images (N, 3, H, W) in [0, 1] -> the mean; it makes images of more than 256 pixels smaller."""
    alpha, beta = (torch.cat(numbers).view(1, -1, 1, 1) for numbers in dists_weights(None))
    return _piq("DISTS", {"alpha": alpha, "beta": beta})


class PiqStyle(nn.Module):
    """piq's content and style losses, weighted to the numbers of PerceptualLoss.preset("johnson-style").

    piq sums over channels where pytorch/examples takes the mean, and divides no Gram matrix. It has no kept targets.
    """

    style: Tensor

    def __init__(self) -> None:
        super().__init__()
        channels = {"relu1_2": 64, "relu2_2": 128, "relu3_3": 256, "relu4_3": 512}
        settings = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        self.content = _piq("ContentLoss", layers=["relu2_2"], weights=[CONTENT_WEIGHT / 128], **settings)
        self.styles = _piq("StyleLoss", layers=[*channels], weights=[1.0] * 4, **settings)
        self.channels = [*channels.values()]

    def set_style(self, image: Tensor) -> None:  # (1, 3, H, W)
        self.style = image

    def forward(self, output: Tensor, target: Tensor) -> Tensor:  # (N, 3, H, W) each
        """Grams of layer i are of C channels and H W / 4^i pixels; piq's loss is the mean over C x C, summed."""
        pixels = output.shape[2] * output.shape[3]
        sizes = [channels * pixels // 4**i for i, channels in enumerate(self.channels)]
        self.styles.weights = [torch.tensor(STYLE_WEIGHT / size**2) for size in sizes]
        return self.content(output, target) + self.styles(output, self.style.expand_as(output))


class PeerDists(nn.Module):
    """The package DISTS-pytorch: images (N, 3, H, W) in [0, 1] -> (N); without the file it seeks beside Python."""

    def __init__(self, metric: str) -> None:
        super().__init__()
        with _untrained():
            self.dists = self.network()
        _take_trunk(self.dists, "vgg16")
        for own, numbers in zip((self.dists.alpha, self.dists.beta), dists_weights(None), strict=True):
            own.data.copy_(torch.cat(numbers).view_as(own))

    def network(self) -> nn.Module:
        from DISTS_pytorch import DISTS

        return DISTS(load_weights=False)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.dists(output, target, require_grad=torch.is_grad_enabled())


class TorchmetricsDists(PeerDists):
    """The network of torchmetrics' DISTS, which the metric itself makes anew for every batch."""

    def network(self) -> nn.Module:
        dists = importlib.import_module("torchmetrics.functional.image.dists")
        with _untrained("torchmetrics.functional.image.dists"):
            return dists.DISTSNetwork(load_weights=False)


def pyiqa_lpips(metric: str) -> nn.Module:
    """pyiqa's LPIPS as its documentation makes it: images (N, 3, H, W) in [-1, 1] -> the mean.

    What it downloads besides torchvision's weights are LPIPS's own, which are here.
    """

    def opened(request: urllib.request.Request, *arguments: object, **keywords: object) -> object:
        (network,) = (network for network in ("alex", "vgg") if network in request.full_url)
        return urllib.request.urlopen((LPIPS_WEIGHTS / f"lpips-v0.1-{network}.pth").as_uri())

    import_torchvision()
    pyiqa = importlib.import_module("pyiqa")
    with _untrained(), mock.patch("torch.hub.urlopen", opened):
        module = pyiqa.create_metric("lpips" if metric == "lpips-alex" else metric, as_loss=True)
    _take_trunk(module, NETWORKS[metric])
    return OfUnitRange(module)

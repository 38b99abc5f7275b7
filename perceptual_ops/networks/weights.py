"""Where trunk weights come from: torchvision's files, the stlpips wheel, a file, a state dict, or random numbers."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from ..names import TrunkWeights, WeightsName
from .checkpoint_files import OTHER_FILE, check_hash, checked_path, read_checkpoint
from .download import WrongHash, download
from .layers import Conv

WeightSource = WeightsName | str | os.PathLike[str] | Mapping[str, Tensor]

SOURCES: tuple[TrunkWeights, ...] = get_args(TrunkWeights)

# torchvision's files (torchvision/models/); the name ends with the first digits of the file's SHA-256.
IMAGENET_URL = "https://download.pytorch.org/models"
IMAGENET_FILES = {
    "vgg11": "vgg11-8a719046.pth",
    "vgg13": "vgg13-19584684.pth",
    "vgg16": "vgg16-397923af.pth",
    "vgg19": "vgg19-dcbb9e9d.pth",
    "alexnet": "alexnet-owt-7be5be79.pth",
    "squeezenet1_1": "squeezenet1_1-b8a52dc0.pth",
    "convnext_small": "convnext_small-0c510722.pth",
    "resnet50": "resnet50-0676ba61.pth",
}

# Shift-tolerant LPIPS (Ghildyal and Liu 2022, arXiv 2207.13686): an ImageNet VGG16 and AlexNet with blur pooling.
STLPIPS_PACKAGE = "stlpips_pytorch"
STLPIPS_INSTALL = "pip install --no-deps stlpips-pytorch"
STLPIPS_FILES = {
    "vgg16": "weights/vST0.0/vgg_shift_tolerant.pth",
    "alexnet": "weights/vST0.0/alex_shift_tolerant.pth",
}


@dataclass(frozen=True)
class WeightFile:
    """A file one of the sources provides: where it belongs and how it gets there."""

    source: str
    network: str
    path: Path | None  # None: part of a package that is not installed
    remedy: str

    @property
    def present(self) -> bool:
        """Whether the file is there; its contents are not read."""
        return self.path is not None and self.path.is_file()


def available() -> tuple[WeightFile, ...]:
    """Every file the sources "imagenet" and "stlpips" know, present or not; touches no network and reads no file."""
    imagenet = [
        WeightFile("imagenet", network, _imagenet_path(network), f"download {_imagenet_url(network)}")
        for network in IMAGENET_FILES
    ]
    stlpips = [
        WeightFile("stlpips", network, _stlpips_path(network), f"run {STLPIPS_INSTALL}") for network in STLPIPS_FILES
    ]
    return (*imagenet, *stlpips)


def read_weights(weights: WeightSource, network: str, progress: bool = True) -> tuple[Mapping[str, object], str]:
    """The state dict behind `weights`, as it came, and what errors call it.

    Args:
        weights: "imagenet" (torch hub's cache, else a download, checked against the hash in its name), "stlpips" (the
            installed wheel), the path of a .pth, .pt or .safetensors file, or a state dict. ("random" is made from the
            layers: `random_weights`.)
        network: name of the network, for the sources that hold several.
        progress: whether a download draws its progress bar.

    Raises:
        TypeError: weights of another type.
        ValueError: unknown source, a network the source does not have, a wrong hash, a file that is damaged or holds
            no state dict.
        FileNotFoundError: no file at the path.
        ModuleNotFoundError: the package that holds or reads the weights is not installed.
        OSError: the download failed.
    """
    if isinstance(weights, Mapping):
        return weights, "the state dict passed as weights"
    if weights == "imagenet":
        return _read_imagenet(network, progress)
    if weights == "stlpips":
        return _read_stlpips(network)
    if not isinstance(weights, str | os.PathLike):
        hint = "; pass its state_dict()" if isinstance(weights, nn.Module) else ""
        raise TypeError(f"weights: expected a source, a path or a state dict, got {type(weights).__name__}{hint}")
    path = checked_path("weights", weights, f"one of {', '.join(SOURCES)}")
    return _read_state_dict(path, OTHER_FILE), str(path)


def random_weights(convolutions: Iterable[Conv], seed: int) -> dict[str, Tensor]:
    """Kaiming-normal fan-out weights in fp32 and zero biases, as torchvision initialises its VGGs.

    Drawn layer by layer from a generator of their own: the caller's random numbers are untouched, and a shallower
    network gets the same first layers.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    weights = {}
    for conv in convolutions:
        weight = torch.empty(
            conv.out_channels, conv.in_channels, conv.kernel, conv.kernel, dtype=torch.float32, device="cpu"
        )
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu", generator=generator)
        weights[f"{conv.name}.weight"] = weight
        weights[f"{conv.name}.bias"] = torch.zeros(conv.out_channels, dtype=torch.float32, device="cpu")
    return weights


def _file_of(source: str, network: str, files: Mapping[str, str]) -> str:
    if network not in files:
        raise ValueError(f"weights: expected a source that has {network}, got {source!r}, which has {', '.join(files)}")
    return files[network]


def _imagenet_url(network: str) -> str:
    return f"{IMAGENET_URL}/{_file_of('imagenet', network, IMAGENET_FILES)}"


def _imagenet_path(network: str) -> Path:
    return Path(torch.hub.get_dir(), "checkpoints", _file_of("imagenet", network, IMAGENET_FILES))


def _stlpips_path(network: str) -> Path | None:
    """Where the installed wheel keeps the network's file; None if it is not installed."""
    file = _file_of("stlpips", network, STLPIPS_FILES)
    # Finding does not import: the package imports others that nobody here needs.
    package = importlib.util.find_spec(STLPIPS_PACKAGE)
    folders = package.submodule_search_locations if package else None
    return Path(folders[0], file) if folders else None


def _read_imagenet(network: str, progress: bool) -> tuple[Mapping[str, object], str]:
    path = _imagenet_path(network)
    if not path.is_file():
        _download(_imagenet_url(network), path, progress)
    remedy = "delete it and it is downloaded again at the next call"
    check_hash(path, _expected_digits(path), f"{remedy}, or pass weights=<its path> to use it as it is")
    return _read_state_dict(path, remedy), str(path)


def _read_stlpips(network: str) -> tuple[Mapping[str, object], str]:
    path = _stlpips_path(network)
    if path is None:
        raise ModuleNotFoundError(
            f"weights: expected the package stlpips-pytorch for 'stlpips', it is not installed; {STLPIPS_INSTALL}"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"weights: expected {path} in the installed package stlpips-pytorch, there is none; reinstall it with "
            f"{STLPIPS_INSTALL} --force-reinstall"
        )
    return _read_state_dict(path, f"reinstall its package with {STLPIPS_INSTALL} --force-reinstall"), str(path)


def _expected_digits(path: Path) -> str:
    """The first digits of the SHA-256 of the file, as torchvision names its files by them."""
    return path.stem.rpartition("-")[2]


def _download(url: str, path: Path, progress: bool) -> None:
    """Fetches the file and checks its hash; what fails the check is never left at `path`."""
    expected = _expected_digits(path)
    others = "a state dict, 'stlpips' (VGG16, AlexNet) or, for a trial, 'random'"
    remedy = f"put the file at {path}, or pass weights=<a path>, {others}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download(url, path, expected, progress)
    except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors, a cut connection the other
        raise OSError(f"weights: could not download {url} ({error}); {remedy}") from None
    except WrongHash as error:
        raise ValueError(
            f"weights: expected a file whose SHA-256 begins with {expected}, got another from {url} ({error}); "
            f"try again without a proxy, or {remedy}"
        ) from None


def _read_state_dict(path: Path, remedy: str) -> Mapping[str, object]:
    state = read_checkpoint(path, remedy)
    if not isinstance(state, Mapping):
        raise ValueError(f"{path}: expected a state dict, got {type(state).__name__}; {remedy}")
    return state

"""Networks of published perceptual losses that other packages build: ConvNeXt-S, ResNet-50, DINOv2-B."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..names import PublishedName
from .checkpoint_files import check_finite_state
from .weights import SOURCES, WeightSource, read_weights

DINOV2 = "facebook/dinov2-base"


def convnext_small(weights: WeightSource = "imagenet") -> nn.Module:
    """torchvision's ConvNeXt-S (Liu et al. 2022): images (N, 3, H, W), normalised -> logits (N, 1000).

    Args:
        weights: "imagenet": torchvision's IMAGENET1K_V1, from the torch hub cache, else downloaded; "random"; the path
            of a .pth, .pt or .safetensors file, or a state dict, both with torchvision's keys.
    """
    (build,) = _import("torchvision.models", "convnext_small", "convnext_small")
    # Random blocks have a layer scale of 1e-6, with which a ConvNeXt would be its four strided convolutions only.
    return _filled("convnext_small", lambda: build(weights=None, layer_scale=1.0), weights)


def resnet50(weights: WeightSource = "imagenet") -> nn.Module:
    """torchvision's ResNet-50 (He et al. 2016): images (N, 3, H, W), normalised -> logits (N, 1000).

    Args:
        weights: as of `convnext_small`.
    """
    (build,) = _import("torchvision.models", "resnet50", "resnet50")
    return _filled("resnet50", lambda: build(weights=None), weights)


def dinov2_base(weights: WeightSource = "lvd142m") -> nn.Module:
    """transformers' DINOv2-B/14 (Oquab et al. 2024): images (N, 3, H, W), normalised -> a dataclass of tokens.

    `hidden_states[0]` to `hidden_states[12]` are what enters the blocks and what leaves each, `last_hidden_state` is
    the last after the final LayerNorm; all (N, 1 + T, 768), the class token first, T = (H // 14) (W // 14).

    Args:
        weights: "lvd142m": facebook/dinov2-base, from the Hugging Face cache, else downloaded; "random"; the path of a
            .pth, .pt or .safetensors file, or a state dict, both with transformers' keys.
    """
    if isinstance(weights, str) and weights in SOURCES and weights != "random":
        raise ValueError(
            f'weights: expected "lvd142m", "random", a path or a state dict for dinov2_base, got {weights!r}'
        )
    model, config = _import("transformers", "dinov2_base", "Dinov2Model", "Dinov2Config")
    if isinstance(weights, str) and weights == "lvd142m":
        network = _from_hub(model, DINOV2)
    else:
        # At 518 pixels the positions of the patches are those that were trained.
        network = _filled("dinov2_base", lambda: model(config(image_size=518)), weights)
    settings: Any = network.config
    settings.output_hidden_states = True
    return network


class Published(NamedTuple):
    """A network by name.

    Attributes:
        build: weights -> the module.
        layer: The default content layer of a loss.
    """

    build: Callable[..., nn.Module]
    layer: str


PUBLISHED: dict[PublishedName, Published] = {
    "convnext_small": Published(convnext_small, "output"),
    "resnet50": Published(resnet50, "output"),
    "dinov2_base": Published(dinov2_base, "last_hidden_state"),
}


def hub_cache() -> Path | None:
    """The folder in which transformers and timm keep networks; None where the Hugging Face Hub's package is missing."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    return Path(importlib.import_module("huggingface_hub.constants").HF_HUB_CACHE)


def is_cached(repository: str) -> bool:
    """Whether the cache has the weights of a repository; no network is touched."""
    cache = hub_cache()
    return cache is not None and any(cache.glob(f"models--{repository.replace('/', '--')}/snapshots/*/*.safetensors"))


def _import(module: str, network: str, *names: str) -> list[Any]:
    """Attributes of a module by name; transformers imports lazily, when they are read."""
    try:
        package = importlib.import_module(module)
        return [getattr(package, name) for name in names]
    except (ImportError, RuntimeError, AttributeError) as error:  # the last two are of a build for another torch
        raise _unusable(module.partition(".")[0], network, error) from error


def _unusable(package: str, network: str, error: BaseException) -> ImportError:
    """The error for a failed import: which package is at fault, and the remedy."""
    while error.__cause__ is not None:  # the original error, not that of transformers
        error = error.__cause__
    said = f"network: {network} is built by the package {package}, which cannot be imported ({error})"
    if isinstance(error, ModuleNotFoundError):
        return ModuleNotFoundError(f"{said}: pip install 'perceptual_ops[networks]'")
    at_fault = "torchvision" if "torchvision" in str(error) else package  # which transformers imports too
    return ImportError(f"{said}: install a {at_fault} that fits torch {torch.__version__}")


def _filled(name: str, build: Callable[[], nn.Module], weights: WeightSource) -> nn.Module:
    """The network in eval mode, with random numbers or with those of a file or a state dict."""
    state, origin = (None, "") if isinstance(weights, str) and weights == "random" else read_weights(weights, name)
    # The packages draw from the global generator, which is the caller's; a seed for all devices would touch CUDA's.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(0)
        network = build()
    if state is not None:
        _load(network, state, f"{origin} is not for {name}")
        check_finite_state(network.state_dict(), network, origin)
    return network.eval()


def _load(network: nn.Module, state: Mapping[str, Any], problem: str) -> None:
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except (RuntimeError, TypeError) as error:  # tensors of other shapes, or what is no tensor
        raise ValueError(f"weights: {problem}: {' '.join(str(error).split())}") from error
    keys = list(network.state_dict())
    if missing or unexpected:
        came = f"lacks {missing[0]!r}" if missing else f"holds {unexpected[0]!r}"
        raise ValueError(f"weights: {problem}: it {came}; expected keys such as {keys[0]!r}, {len(keys)} in all")


def _from_hub(model: Any, repository: str) -> nn.Module:
    try:
        network: nn.Module = model.from_pretrained(repository)
    except OSError as error:  # how transformers reports whatever keeps it from a file
        raise OSError(
            f"weights: could not get {repository} of the Hugging Face Hub ({str(error).splitlines()[0]}): "
            f"fill its cache, {hub_cache()}, by `hf download {repository}` where there is a network, or pass "
            "weights=<path of its model.safetensors>"
        ) from error
    return network

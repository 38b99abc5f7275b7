"""Small LPIPS and DISTS for tests, and both written as their papers have them."""

from __future__ import annotations

from functools import cache

import torch
from placement import placed
from torch import Tensor

import perceptual_ops as po

Metric = po.LPIPS | po.DISTS

METRICS = ("alex", "vgg16", "dists")

# Few pixels, since passes in fp64 and 16 bits are slow, but several in the deepest map of a VGG16.
SMALL = {"alex": (32, 43), "vgg16": (19, 33), "dists": (19, 33), "squeeze": (19, 33)}


def pictures(batch: int, height: int = 32, width: int = 35, seed: int = 0) -> Tensor:
    """Smooth random images in [0, 1], so that a pair of them is neither equal nor unlike; AlexNet takes 31 pixels."""
    coarse = torch.rand((batch, 3, 8, 8), generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    noise = torch.rand(smooth.shape, generator=torch.Generator().manual_seed(seed + 100))
    return placed(0.8 * smooth + 0.2 * noise)


@cache
def trunk_weights(name: str) -> dict[str, Tensor]:
    """Random weights of a trunk, with biases, drawn once."""
    state = po.load_network({"alex": "alexnet", "squeeze": "squeezenet1_1"}.get(name, "vgg16"), "random").state_dict()
    generator = torch.Generator().manual_seed(7)
    for key, value in state.items():
        if key.endswith("bias"):
            value.normal_(0.0, 0.02, generator=generator)
    return state


def make(name: str, **settings: object) -> Metric:
    """A metric with random weights of the trunk, official numbers, and images in [0, 1]."""
    settings = {"input_range": (0.0, 1.0)} | settings
    settings.setdefault("weights", trunk_weights(name))
    return placed(po.DISTS(**settings) if name == "dists" else po.LPIPS(name, **settings))


def numbers(metric: Metric, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [number.to(dtype) for number in metric._kept["learned_weights"]]


def features(metric: Metric, images: Tensor) -> list[Tensor]:
    """By the network alone, of images in [0, 1] in the network's dtype."""
    network = metric._network
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (network.mean, network.std))
    layers = [layer for layer in metric.layers if layer != "image"]
    return list(network.features((images - mean) / std, layers).values())


def naive_lpips(metric: po.LPIPS, x: Tensor, y: Tensor) -> Tensor:  # (N, 3, H, W) twice -> (N)
    total = x.new_zeros(x.shape[0])
    for f, g, w in zip(features(metric, x), features(metric, y), numbers(metric, x.dtype), strict=True):
        f, g = (z / (z.square().sum(1, keepdim=True).sqrt() + 1e-10) for z in (f, g))
        total = total + (w.view(1, -1, 1, 1) * (f - g).square()).sum(1).mean((1, 2))
    return total


def naive_dists(metric: po.DISTS, x: Tensor, y: Tensor) -> Tensor:  # (N, 3, H, W) twice -> (N)
    found = numbers(metric, x.dtype)
    score = x.new_zeros(x.shape[0])
    triples = zip([x, *features(metric, x)], [y, *features(metric, y)], found[:6], found[6:], strict=True)
    for f, g, alpha, beta in triples:
        f, g = f.flatten(2), g.flatten(2)
        mf, mg, c = f.mean(2), g.mean(2), 1e-6
        covariance = (f * g).mean(2) - mf * mg
        means = (2 * mf * mg + c) / (mf.square() + mg.square() + c)
        structures = (2 * covariance + c) / (f.var(2, unbiased=False) + g.var(2, unbiased=False) + c)
        score = score + (alpha * means + beta * structures).sum(1)
    return 1 - score


def naive(metric: Metric, x: Tensor, y: Tensor) -> Tensor:
    return naive_dists(metric, x, y) if isinstance(metric, po.DISTS) else naive_lpips(metric, x, y)

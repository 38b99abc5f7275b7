"""Losses of masked images and of regions as the docs have them, in plain torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import perceptual
import torch
import torch.nn.functional as F
from metrics import features, numbers
from placement import placed
from test_clips import gradients
from torch import Tensor

import perceptual_ops as po

STYLE_WEIGHT = 1e6  # with which style is about as large as content

LOSSES = {
    "mse": lambda e: e**2,
    "l1": lambda e: abs(e),
    "charbonnier": lambda e: (e**2 + 1e-6) ** 0.5,
    "huber": lambda e: torch.where(abs(e) < 1, e**2 / 2, abs(e) - 0.5),
}


def mask(*shape: int, seed: int = 0) -> Tensor:
    """Of any numbers in [0, 1], fp64."""
    return placed(torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(40 + seed)))


def area(pixels: Tensor, height: int, width: int) -> Tensor:  # (N, 1, H, W) -> (N, 1, height, width)
    rows, columns = pixels.shape[2] / height, pixels.shape[3] / width
    found = pixels.new_zeros(len(pixels), 1, height, width)
    for i in range(height):
        for j in range(width):
            window = pixels[
                :, :, math.floor(i * rows) : math.ceil((i + 1) * rows),
                math.floor(j * columns) : math.ceil((j + 1) * columns),
            ]  # fmt: skip
            found[:, :, i, j] = window.mean((2, 3))
    return found


def vgg11(x: Tensor) -> dict[str, Tensor]:
    """The first layers of the network of `perceptual.make`."""
    state = {key: placed(value.double()) for key, value in po.load_network("vgg11", "random").state_dict().items()}
    mean, std = (x.new_tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    found = {"conv1_1": F.conv2d((x - mean) / std, state["conv1_1.weight"], state["conv1_1.bias"], padding=1)}
    found["relu1_1"] = found["conv1_1"].relu()
    found["pool1"] = F.max_pool2d(found["relu1_1"], 2)
    found["conv2_1"] = F.conv2d(found["pool1"], state["conv2_1.weight"], state["conv2_1.bias"], padding=1)
    found["relu2_1"] = found["conv2_1"].relu()
    return found


def unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


def content(x: Tensor, y: Tensor, m: Tensor, distance: str = "mse") -> Tensor:  # maps -> (N)
    m = area(m, *x.shape[2:])
    if distance == "sse":
        return (m * (x - y) ** 2).sum((1, 2, 3))
    if distance == "cosine":
        of_pixels = (unit(x) - unit(y)).square().sum(1, keepdim=True) / 2
    else:
        of_pixels = LOSSES[distance](x - y).mean(1, keepdim=True)
    return (m * of_pixels).sum((1, 2, 3)) / m.sum((1, 2, 3))


def guided_gram(x: Tensor, m: Tensor, normalize: str = "chw", clips: int = 0) -> Tensor:  # (N, C, H, W) -> (N, C, C)
    """Of frames of so many clips theirs over all frames."""
    m = area(m, *x.shape[2:])
    masked, m = x * m, m.expand(len(x), -1, -1, -1)
    if clips:
        masked, m = (z.unflatten(0, (clips, -1)).transpose(1, 2) for z in (masked, m))
    masked, size = masked.flatten(2), (m**2).flatten(1).sum(1).view(-1, 1, 1)
    return masked @ masked.mT / {"none": 1, "hw": size, "chw": x.shape[1] * size}[normalize]


def perceptual_loss(
    x: Tensor,
    y: Tensor,
    styles: Sequence[Tensor],
    of_content: Tensor,
    guides: Sequence[Tensor],
    shares: Sequence[float] = (1.0,),
    content_distance: str = "mse",
    style_distance: str = "mse",
    gram_normalize: str = "chw",
    normalize_features: str = "none",
    clips: int = 0,
) -> dict[str, Tensor]:  # (N) each
    """The terms; of x and y that are frames of so many clips (N)."""
    images = {"x": x, "y": y} | {f"style {k}": style for k, style in enumerate(styles)}
    maps = {name: vgg11(image) for name, image in images.items()}
    if normalize_features == "channel":
        maps = {name: {layer: unit(z) for layer, z in of.items()} for name, of in maps.items()}
    terms = {}
    for layer in perceptual.CONTENT:
        terms[f"content/{layer}"] = content(maps["x"][layer], maps["y"][layer], of_content, content_distance)
        if clips:
            terms[f"content/{layer}"] = terms[f"content/{layer}"].view(clips, -1).mean(1)
    for layer in perceptual.STYLE:
        terms[f"style/{layer}"] = x.new_zeros(clips or len(x))
        for k, (share, guide) in enumerate(zip(shares, guides, strict=True)):
            target = guided_gram(z := maps[f"style {k}"][layer], torch.ones_like(z[:, :1]), gram_normalize)
            error = guided_gram(maps["x"][layer], guide, gram_normalize, clips) - target
            terms[f"style/{layer}"] = terms[f"style/{layer}"] + share * LOSSES[style_distance](error).mean((1, 2))
    terms["content"] = sum(weight * terms[f"content/{layer}"] for layer, weight in perceptual.CONTENT.items())
    terms["style"] = STYLE_WEIGHT * sum(weight * terms[f"style/{layer}"] for layer, weight in perceptual.STYLE.items())
    return terms


def lpips(metric: po.LPIPS, x: Tensor, y: Tensor, m: Tensor) -> list[Tensor]:  # L x (N)
    found = []
    for f, g, w in zip(features(metric, x), features(metric, y), numbers(metric, x.dtype), strict=True):
        of_pixels, own = (
            (w.view(1, -1, 1, 1) * (unit(f) - unit(g)).square()).sum(1, keepdim=True),
            area(m, *f.shape[2:]),
        )
        found.append((own * of_pixels).sum((1, 2, 3)) / own.sum((1, 2, 3)))
    return found


def assert_alike(found: Tensor, wanted: Tensor, *images: Tensor) -> None:
    """Values, and gradients with respect to images."""
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-14)
    for a, b in zip(gradients(found, *images), gradients(wanted, *images), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11 * b.abs().max().item())


def reached(region: Tensor) -> Tensor:  # (1, 1, H, W) -> (1, 1, H, W) bool
    """The pixels that conv2_1 sees of a region, by a network of ones."""
    x = torch.zeros_like(region).requires_grad_()
    ones = region.new_ones(1, 1, 3, 3)
    deep = F.conv2d(F.avg_pool2d(F.conv2d(x, ones, padding=1), 2), ones, padding=1)
    (gradient,) = torch.autograd.grad((deep * area(region, *deep.shape[2:])).sum(), x)
    return gradient > 0

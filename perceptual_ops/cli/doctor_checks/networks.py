"""The operators that run a whole network, or a function of the user's.

Images and weights are multiples of 1/4 and 1/2, so that sums of a forward are exact in every dtype or, behind the last
convolution, rounded once: no ReLU and no maximum is decided otherwise than in fp64.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ... import reference
from ..._accuracy import LAYOUTS
from ...compat._ranges import check_ranges
from ...engine.batching import WHERE_LARGE
from ...engine.custom_op import TrunkInput
from ...engine.input_size import InputSize
from ...engine.metric_op import MetricSettings, metric_loss
from ...engine.pair import IMAGE
from ...engine.perceptual_op import perceptual_loss, trunk_features, trunk_styles
from ...engine.terms import Part, Terms
from ...engine.trunk import Trunk
from ...losses import chunked
from ...networks.feature_network import FeatureNetwork
from ...networks.layers import Conv, Pool, Relu
from .cases import Case, Cases

CHAIN = (Conv("conv1", 3, 8), Relu("relu1"), Pool("pool1", 8), Conv("conv2", 8, 5), Relu("relu2"))
MEAN, STD = 0.5, 0.25
BATCH, CHUNK = 3, 2  # samples in total, and per chunk
CONTENT = Part(("pool1", "conv2"), (0.5, 2.0), "mse", 0.0)
STYLE = Part(("relu1", "relu2"), (3.0, 1.5), "mse", 0.0)
VARIATION = 0.125
FEATURES = ("relu1", "relu2")  # that metrics compare
EPS = 0.125  # of LPIPS, see maps.py
TILE = 8  # pixels of a tile's side; images have two by three
ENTRIES = ("nchw", "nhwc", "cropped")  # layouts of images

Loss = Callable[[Tensor, Tensor], Tensor]  # output and target (N, 3, H, W) -> (N)


class Bench:
    """A small network on a device, and images for it in a dtype of the arithmetic."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype: torch.dtype = dtype
        self.device: torch.device = device
        self.wide: torch.dtype = torch.float64 if dtype == torch.float64 else torch.float32
        network = FeatureNetwork("doctor", CHAIN, ["relu2"], None, (MEAN,) * 3, (STD,) * 3)
        state = network.state_dict()
        for seed, (name, weight) in enumerate(state.items()):
            state[name] = _whole(weight.shape, -1, 1, seed).float() / (4 if name.endswith("bias") else 2)
        network.load_state_dict(state)
        network.to(device)
        self._trunk = Trunk(network)
        self._plain = {False: copy.deepcopy(network).to(dtype), True: copy.deepcopy(network).double()}

    def images(self, layout: str, seed: int, batch: int = BATCH) -> Tensor:  # (N, 3, H, W)
        return LAYOUTS[layout]((_whole((batch, 3, 13, 21), 0, 4, seed) / 4).to(self.device, self.wide))

    def numbers(self, seed: int, *shape: int) -> Tensor:
        return (_whole(shape, 1, 8, seed) / 8).to(self.device, self.wide)

    def trunk_input(self, tile_size: int = WHERE_LARGE) -> TrunkInput:
        scale, shift = (torch.full((1, 3, 1, 1), value, device=self.device) for value in (1 / STD, -MEAN / STD))
        return TrunkInput(self._trunk.key, scale, shift, self.dtype, CHUNK, InputSize.of_images(), tile_size=tile_size)

    def features(self, images: Tensor, layers: tuple[str, ...], exact: bool) -> list[Tensor]:
        """By the network under autograd, in the dtype of the arithmetic or in fp64."""
        network = self._plain[exact]
        return list(network.features(((images - MEAN) / STD).to(network.dtype), layers).values())

    def case(self, where: str, ours: Loss, plain: Callable[[Tensor, Tensor, bool], Tensor], layout: str) -> Case:
        """A loss and its gradients with respect to both images, for an upstream gradient per sample."""
        pair, upstream = (self.images(layout, 11), self.images(layout, 12)), self.numbers(13, BATCH)

        def results(loss: Loss, dtype: torch.dtype) -> list[Tensor]:
            leaves = [images.to(dtype).detach().requires_grad_() for images in pair]
            value = loss(*leaves)
            return [value.detach(), *torch.autograd.grad(value, leaves, upstream.to(value.dtype))]

        return Case(
            f"{layout} {where}",
            lambda: results(ours, self.wide),
            lambda exact: results(lambda x, y: plain(x, y, exact), torch.float64 if exact else self.wide),
            self.dtype,
        )


def _frames(images: Tensor) -> list[Tensor]:  # (N, 3, H, W) each
    """Those of a clip that is larger than a chunk."""
    return [images, images.flip(2), images.flip(3)]


def _whole(shape: tuple[int, ...], low: int, high: int, seed: int) -> Tensor:
    """Random whole numbers from low to high."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high + 1, tuple(shape), generator=generator)


def _trunk_features(dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    bench, layers = Bench(dtype, device), tuple(layer.name for layer in CHAIN)

    def case(layout: str) -> Case:
        images = bench.images(layout, 11)
        return Case(
            layout,
            lambda: trunk_features(images, bench.trunk_input(), layers),
            lambda exact: bench.features(images.double() if exact else images, layers, exact),
        )

    return map(case, ENTRIES)


def _trunk_styles(dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    bench = Bench(dtype, device)

    def plain(images: Tensor, exact: bool) -> list[Tensor]:
        maps = bench.features(images.double() if exact else images, STYLE.layers, exact)
        return [torch.cat([reference.raw_gram_matrix(x, "chw"), reference.raw_channel_statistics(x)], 1) for x in maps]

    def case(layout: str) -> Case:
        images = bench.images(layout, 11)
        return Case(
            layout,
            lambda: trunk_styles(images, bench.trunk_input(TILE), STYLE.layers, "chw", False, "both"),
            lambda exact: plain(images, exact),
        )

    return map(case, ENTRIES)


def _perceptual_loss(dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    bench = Bench(dtype, device)
    grams = [bench.numbers(14, 1, 8, 8), bench.numbers(15, BATCH, 5, 5)]

    def ours(output: Tensor, target: Tensor, tile_size: int = WHERE_LARGE) -> Tensor:
        terms = Terms(CONTENT, STYLE, "chw", VARIATION)
        return perceptual_loss(output, target, [], grams, bench.trunk_input(tile_size), terms)[0]

    def plain(output: Tensor, target: Tensor, exact: bool) -> Tensor:
        content, style = CONTENT.layers, STYLE.layers
        xs = dict(zip(content + style, bench.features(output, content + style, exact), strict=True))
        ys, own = bench.features(target, content, exact), [gram.to(output.dtype) for gram in grams]
        loss, _ = reference.feature_terms([xs[layer] for layer in content], ys, list(CONTENT.weights), "mse", 0.0)
        of_style = [xs[layer] for layer in style], own, list(STYLE.weights), "chw", "mse", 0.0
        return loss + reference.style_terms(*of_style)[0] + VARIATION * reference.variation(output, "l2_squared")

    def of_clips(output: Tensor, target: Tensor) -> Tensor:
        terms = Terms(CONTENT, STYLE, "chw", VARIATION, of_clips=True)
        clip, other = (torch.stack(_frames(images), 2) for images in (output, target))
        return perceptual_loss(clip, other, [], grams, bench.trunk_input(), terms)[0]

    def plain_of_clips(output: Tensor, target: Tensor, exact: bool) -> Tensor:
        loss, count = output.new_zeros(BATCH), len(_frames(output))
        by_frame = [bench.features(frame, STYLE.layers, exact) for frame in _frames(output)]
        for of_layer, gram, weight in zip(zip(*by_frame, strict=True), grams, STYLE.weights, strict=True):
            own = torch.stack([reference.raw_gram_matrix(x, "chw") for x in of_layer]).mean(0)
            loss = loss + weight * (own - gram.to(own.dtype)).square().mean((1, 2))
        for x, y in zip(_frames(output), _frames(target), strict=True):
            maps, targets = (bench.features(images, CONTENT.layers, exact) for images in (x, y))
            content, _ = reference.feature_terms(maps, targets, list(CONTENT.weights), "mse", 0.0)
            loss = loss + (content + VARIATION * reference.variation(x, "l2_squared")) / count
        return loss

    for layout in ENTRIES:
        yield bench.case("content, style and total variation", ours, plain, layout)
        yield bench.case("the same in tiles", partial(ours, tile_size=TILE), plain, layout)
        yield bench.case("the same of clips", of_clips, plain_of_clips, layout)


def _metric_loss(dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    bench = Bench(dtype, device)

    def ours(layers: tuple[str, ...], metric: str, numbers: list[Tensor], tile_size: int = WHERE_LARGE) -> Loss:
        settings = MetricSettings(layers, metric, EPS, True)
        return lambda output, target: metric_loss(output, target, numbers, bench.trunk_input(tile_size), settings)

    def lpips(output: Tensor, target: Tensor, exact: bool) -> Tensor:
        xs, ys = (bench.features(images, FEATURES, exact) for images in (output, target))
        return reference.lpips_terms(xs, ys, [number.to(output.dtype) for number in numbers[1:]], EPS, True)[0]

    def dists(output: Tensor, target: Tensor, exact: bool) -> Tensor:
        own = [number.to(output.dtype) for number in numbers]
        terms = output.new_zeros(BATCH)
        pairs = [[images, *bench.features(images, FEATURES, exact)] for images in (output, target)]
        for x, y, number in zip(*pairs, own, strict=True):  # images keep their dtype, features have the arithmetic's
            terms = terms + reference.dists_terms([x], [y], [number], [number])[0]
        return terms

    numbers = [bench.numbers(14 + i, channels) for i, channels in enumerate((3, 8, 5))]
    for layout in ENTRIES:
        yield bench.case("lpips", ours(FEATURES, "lpips", numbers[1:]), lpips, layout)
        yield bench.case("lpips in tiles", ours(FEATURES, "lpips", numbers[1:], TILE), lpips, layout)
        yield bench.case("dists", ours((IMAGE, *FEATURES), "dists", numbers * 2), dists, layout)
        yield bench.case("dists in tiles", ours((IMAGE, *FEATURES), "dists", numbers * 2, TILE), dists, layout)


def _chunked(dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    """The user's function is torch's own: what is checked is how its parts come together."""
    bench = Bench(dtype, device)
    scale, upstream = bench.numbers(14, BATCH, 1, 1, 1), bench.numbers(13, BATCH)

    def loss(images: Tensor, scale: Tensor) -> Tensor:
        return (images * scale.to(images.dtype)).square().flatten(1).mean(1)

    def results(fn: Loss, images: Tensor) -> list[Tensor]:
        leaf = images.detach().requires_grad_()
        value = fn(leaf, scale)
        return [value.detach(), *torch.autograd.grad(value, leaf, upstream.to(value.dtype))]

    def case(layout: str) -> Case:
        images, in_chunks = bench.images(layout, 11).to(dtype), chunked(loss, chunk_size=CHUNK)
        return Case(
            layout,
            lambda: results(in_chunks, images),
            lambda exact: results(loss, images.double() if exact else images),
            dtype,
        )

    return map(case, ENTRIES)


def _check_ranges(dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    """0, and an error for images out of range."""
    images = Bench(dtype, device).images("nchw", 11).to(dtype)

    def run() -> list[Tensor]:
        found = check_ranges(images, images, True)
        try:
            check_ranges(images, images + 1, True)
        except ValueError:
            return [found, torch.ones_like(found)]
        return [found, torch.zeros_like(found)]

    yield Case(
        "in range and beyond", run, lambda exact: [torch.zeros((), device=device), torch.ones((), device=device)]
    )


NETWORKS: dict[str, Cases] = {
    "trunk_features": _trunk_features,
    "trunk_styles": _trunk_styles,
    "perceptual_loss": _perceptual_loss,
    "metric_loss": _metric_loss,
    "chunked": _chunked,
    "check_ranges": _check_ranges,
}

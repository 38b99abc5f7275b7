"""A frozen classification trunk that returns its features by layer name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _checks as checks
from .._module import Module
from ..names import Pooling
from ..reference import l2_pool
from .checkpoint_files import check_finite
from .hooks import is_altered
from .layers import (
    BLUR_PADDING,
    POOLINGS,
    Conv,
    Fire,
    Layer,
    Pool,
    Relu,
    is_chained,
    smallest_sizes,
    unknown_layer,
)

if TYPE_CHECKING:
    from typing_extensions import Self

# What torchvision's classifiers were trained with, for images in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class FeatureNetwork(Module):
    """Images in, features by layer name out: `network(images)["relu3_3"]` is (N, C, H', W') in the network's dtype.

    A tap gives what its name says: `conv1_1` the convolution before its ReLU, `relu1_1` after it, `pool1` the pooled
    map. Layers beyond the deepest tap are neither built nor run. The network is frozen: no parameter requires a
    gradient and `.train()` changes nothing. Its state dict holds the convolutions only (`conv1_1.weight`, ...); they
    start at zero, `load_network` or `load_state_dict` fills them and refuses NaN and infinity. A forward keeps no
    state, so threads may share it.

    Args:
        name: what errors call the network, such as "vgg16".
        architecture: all the layers of the network, in order; the first is a convolution of 3 channels.
        taps: names of the layers wanted by default, at least one; the deepest says how much is built.
        pooling: "max", "average", "blur" or "l2", for every pooling layer; None: each as the architecture says.
        mean, std: normalisation of the channels of an image in [0, 1]; three floats each, kept as plain attributes.

    Attributes:
        layers: the layers that were built, with their pooling, for callers that run them in their own way.

    Raises:
        ValueError: unknown tap, no tap, unknown pooling, or mean and std that are not three numbers, std above 0.
    """

    def __init__(
        self,
        name: str,
        architecture: Sequence[Layer],
        taps: Iterable[str],
        pooling: Pooling | None = "max",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if pooling is not None:
            checks.check_choice("pooling", pooling, POOLINGS)
        self.name: str = name
        self.pooling: Pooling | None = pooling
        self.mean: tuple[float, ...] = _three_floats("mean", mean)
        self.std: tuple[float, ...] = _three_floats("std", std)
        if min(self.std) <= 0:
            raise ValueError(f"std: expected three numbers above 0, got {self.std}")

        self._depths = {layer.name: depth for depth, layer in enumerate(architecture, start=1)}
        self.taps: tuple[str, ...] = self._known(taps)
        built = architecture[: self._depth(self.taps)]
        if pooling is not None:
            built = [replace(layer, kind=pooling) if isinstance(layer, Pool) else layer for layer in built]
        self.layers: tuple[Layer, ...] = tuple(built)
        self._smallest_sizes = smallest_sizes(self.layers)
        for layer in self.layers:
            if not isinstance(layer, Relu):
                self.add_module(_key(layer), _module(layer))
        self.requires_grad_(False)
        self.eval()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the trunk's weights, in which it computes."""
        return next(self.parameters()).dtype

    @property
    def is_chain(self) -> bool:
        """Whether `Trunk` can run it, which calls no hooks."""
        return all(map(is_chained, self.layers)) and not is_altered(self)

    def train(self, mode: bool = True) -> Self:
        """Changes nothing: a frozen network is always in eval mode."""
        return super().train(False)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        # Not load_state_dict: torch calls this one for a network that is part of another module too.
        loaded = {prefix + name: state_dict.get(prefix + name) for name in self.state_dict()}
        weights = {name: value.to(self.dtype) for name, value in loaded.items() if isinstance(value, Tensor)}
        check_finite(weights, "the state dict")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def module_of(self, layer: Conv | Pool | Fire) -> Any:
        """The module that holds the layer's weights and runs it; a ReLU has none."""
        return self._modules[_key(layer)]

    def check_layers(self, layers: Iterable[str]) -> None:
        """Raises ValueError for layers that the network does not have, or that were not built."""
        self._built(layers)

    def smallest_size(self, layers: Iterable[str] | None = None) -> int:
        """The smallest H = W of images that reach the deepest of `layers` (default: the taps)."""
        return self._smallest_size(self._depth(self._built(layers)))

    def forward(self, images: Tensor, layers: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Normalises the images and runs the trunk up to the deepest layer wanted.

        Args:
            images: (N, 3, H, W), floating point, in [0, 1] (the range is not checked). Normalised in fp32, or in fp64
                for fp64 images, then cast to the network's dtype.
            layers: names of the layers wanted, none deeper than the deepest tap; default: the taps.

        Returns:
            Features (N, C, H', W') by layer name, in the order asked, in the network's dtype or in autocast's.

        Raises:
            TypeError: images that are not a floating-point tensor.
            ValueError: images of another shape or too small for the layers; layers unknown or not built.
        """
        wanted = self._built(layers)
        self._check_images(images, self._depth(wanted))
        return self._run(self._normalize(images).to(self.dtype), wanted)

    def features(self, normalized: Tensor, layers: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Like `forward`, for images (N, 3, H, W) that are normalised already and have the network's dtype."""
        wanted = self._built(layers)
        self._check_images(normalized, self._depth(wanted))
        return self._run(normalized, wanted)

    def _run(self, x: Tensor, wanted: tuple[str, ...]) -> dict[str, Tensor]:
        features: dict[str, Tensor] = {}
        overwrite = False
        for layer in self.layers[: self._depth(wanted)]:
            x = self._run_layer(layer, x, overwrite)
            if layer.name in wanted:
                features[layer.name] = x
            # An untapped convolution may be overwritten; on a CPU a new map costs a quarter of its time. A pooling may
            # not: autograd keeps the roots of "l2".
            overwrite = isinstance(layer, Conv) and layer.name not in features
        return {name: features[name] for name in wanted}

    def _run_layer(self, layer: Layer, x: Tensor, overwrite: bool) -> Tensor:
        if isinstance(layer, Relu):
            return F.relu(x, inplace=overwrite)
        if isinstance(layer, (Conv, Pool, Fire)):
            result: Tensor = self.module_of(layer)(x)
            return result
        raise unknown_layer(layer)

    def _normalize(self, images: Tensor) -> Tensor:
        """(images - mean) / std in one pass, in fp32 or fp64."""
        dtype = torch.promote_types(images.dtype, torch.float32)

        def per_channel(values: Iterable[float]) -> Tensor:
            # Filled on the device: a copy from the host would not go into a CUDA graph.
            return torch.cat([images.new_full((1, 1, 1, 1), value, dtype=dtype) for value in values], dim=1)

        scale = per_channel(1 / std for std in self.std)
        shift = per_channel(-mean / std for mean, std in zip(self.mean, self.std, strict=True))
        return torch.addcmul(shift, images, scale)

    def _known(self, layers: Iterable[str]) -> tuple[str, ...]:
        if isinstance(layers, str):
            raise TypeError(f"layers: expected a list of layer names, got the string {layers!r}")
        names = tuple(layers)
        if not names:
            raise ValueError(f"layers: expected at least one of {', '.join(self._depths)}, got none")
        unknown = [name for name in names if name not in self._depths]
        if unknown:
            raise ValueError(f"layers: expected those of {self.name} ({', '.join(self._depths)}), got {unknown[0]!r}")
        return names

    def _built(self, layers: Iterable[str] | None) -> tuple[str, ...]:
        if layers is None:
            return self.taps
        names = self._known(layers)
        if self._depth(names) > len(self.layers):
            deepest = max(names, key=self._depths.__getitem__)
            raise ValueError(
                f"layers: expected none deeper than {self.layers[-1].name}, the last this {self.name} was built for, "
                f"got {deepest}; name it when the network is loaded"
            )
        return names

    def _depth(self, names: tuple[str, ...]) -> int:
        return max([self._depths[name] for name in names])

    def _smallest_size(self, depth: int) -> int:
        return self._smallest_sizes[self.layers[depth - 1].name]

    def _check_images(self, images: Tensor, depth: int) -> None:
        if not isinstance(images, Tensor) or not images.is_floating_point():
            came = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"images: expected a floating-point tensor, got {came}")
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"images: expected shape (N, 3, H, W), got {tuple(images.shape)}")
        height, width = images.shape[2:]
        smallest = self._smallest_size(depth)
        if height < smallest or width < smallest:
            raise ValueError(
                f"images: expected at least {smallest} x {smallest} pixels for {self.layers[depth - 1].name} of "
                f"{self.name}, got {height} x {width}"
            )


class FireModule(Module):
    """The convolutions of a `Fire` and their ReLUs."""

    squeeze: nn.Conv2d
    expand1x1: nn.Conv2d
    expand3x3: nn.Conv2d

    def __init__(self, layer: Fire) -> None:
        super().__init__()
        for conv in layer.convolutions:
            self.add_module(conv.name.rpartition(".")[2], _conv(conv))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, 2 * expand, H, W)."""
        x = F.relu(self.squeeze(x), inplace=True)
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1), inplace=True)


class L2Pool(Module):
    """DISTS's pooling."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W'), see `Pool.output_size`."""
        return l2_pool(x)


class BlurPool(Module):
    """Max-pooling at stride 1, reflection padding, and a binomial 3x3 filter at the layer's stride, per channel."""

    kernel: Tensor  # (3, 3), follows the network's device and dtype; its sixteenths are exact in every one

    def __init__(self, layer: Pool) -> None:
        super().__init__()
        self.layer = layer
        binomial = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float32, device="cpu") / 4
        self.register_buffer("kernel", torch.outer(binomial, binomial), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W'), see `Pool.output_size`."""
        maxima = F.max_pool2d(x, self.layer.kernel, stride=1)
        padded = F.pad(maxima, (BLUR_PADDING,) * 4, mode="reflect")
        kernel = self.kernel.expand(self.layer.channels, 1, -1, -1)
        return F.conv2d(padded, kernel, stride=self.layer.stride, groups=self.layer.channels)


def _key(layer: Layer) -> str:
    """The name under which a layer's module is registered, without dots."""
    return layer.name.replace(".", "/")


def _module(layer: Conv | Pool | Fire) -> nn.Module:
    if isinstance(layer, Conv):
        return _conv(layer)
    if isinstance(layer, Pool):
        return _pool(layer)
    if isinstance(layer, Fire):
        return FireModule(layer)
    raise unknown_layer(layer)


def _conv(layer: Conv) -> nn.Conv2d:
    # skip_init, because the usual initialisation would draw from the caller's random numbers. fp32 on the CPU, whatever
    # the caller's defaults are: weights are moved and cast by the network's owner.
    conv: nn.Conv2d = nn.utils.skip_init(
        nn.Conv2d, layer.in_channels, layer.out_channels, layer.kernel, stride=layer.stride, padding=layer.padding,
        dtype=torch.float32, device="cpu",
    )  # fmt: skip
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


def _pool(layer: Pool) -> nn.Module:
    if layer.kind == "blur":
        return BlurPool(layer)
    if layer.kind == "l2":
        return L2Pool()
    if layer.kind == "max":
        return nn.MaxPool2d(layer.kernel, layer.stride, ceil_mode=layer.ceil)
    if layer.kind == "average":
        return nn.AvgPool2d(layer.kernel, layer.stride, ceil_mode=layer.ceil)
    raise checks.unknown("kind", layer.kind, POOLINGS)


def _three_floats(argument: str, values: Sequence[float]) -> tuple[float, ...]:
    if len(values) != 3:
        raise ValueError(f"{argument}: expected three numbers, one per channel, got {values!r}")
    return tuple(float(value) for value in values)

"""Forward and backward of a frozen trunk without an autograd graph.

A frozen network asks for less than autograd keeps: no gradient of a weight, so no input of a convolution; of a ReLU one
bit an element, of a max-pooling four bits a window. Convolutions are torch's, in channels_last; what lies between them
is one pass each way (csrc/activation). Bias goes with the convolution where torch adds it for nothing (CPU) and with
the ReLU where it would be a pass of its own (CUDA). The library's own fused ReLU is not used: oneDNN's turns NaN into 0,
and a broken image would have a finite loss.

An input gradient at stride 1 is a convolution with the weights flipped and transposed, made once: torch's own
convolution_backward takes 3 (fp32) to 16 (bf16) times as long in channels_last on a CPU.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .feature_network import FeatureNetwork
from .gradient_scale import GradientScale
from .layers import Conv, Layer, Pool, Relu

operators = torch.ops.perceptual_ops


class TapGradients(Protocol):
    """The gradients of a loss by the tapped maps, as a backward asks for them.

    Attributes:
        scale: What they are to be scaled by; None where the dtype has the range.
    """

    scale: GradientScale | None

    def gradient(self, layer: str, scale: Tensor | None) -> Tensor:
        """The gradient by a tapped map (N, C, H, W), times `scale` (N); a tensor that the trunk may write into."""

    def bound(self, layer: str) -> Tensor:
        """At least the largest magnitude of each sample of that gradient (N), unscaled."""


@dataclass(frozen=True)
class Stage:
    """A convolution, ReLU and pooling that follow each other; any of them may be missing."""

    conv: Conv | None
    relu: Relu | None
    pool: Pool | None


@dataclass(frozen=True)
class ConvWeights:
    """A convolution's weights in the dtype of the arithmetic, channels_last.

    Attributes:
        weight: (out, in, k, k).
        bias: (out,).
        flipped: (in, out, k, k), the input gradient's weights; None where the stride is not 1.
        growth: How much larger than its input the input gradient can be, at most.
    """

    weight: Tensor
    bias: Tensor
    flipped: Tensor | None
    growth: float


@dataclass
class Saved:
    """What the backward of a stage needs.

    Attributes:
        conv_size: (H, W) of the convolution's input.
        pool_size: (H, W) of the pooling's input.
        signs: Where the ReLU passes a gradient, or None where `codes` say it, or there is no ReLU.
        codes: Where the maxima of the pooling lay.
    """

    conv_size: tuple[int, int] | None = None
    pool_size: tuple[int, int] | None = None
    signs: Tensor | None = None
    codes: Tensor | None = None


@dataclass(frozen=True)
class Tape:
    """A forward as its backward reads it."""

    taps: frozenset[str]
    stages: Sequence[Stage]
    saved: list[Saved]
    weights: dict[str, ConvWeights]


class Trunk:
    """A frozen network as a chain that is run by hand.

    Attributes:
        key: A name under which `trunk_of` finds it as long as it lives. Operators that are opaque to torch.compile take
            strings and tensors, and the weights are none of a graph's business.
    """

    def __init__(self, network: FeatureNetwork) -> None:
        self.network = network
        self.key = f"{network.name}/{next(_numbers)}"
        self._weights: dict[torch.dtype, dict[str, ConvWeights]] = {}
        self._lock = threading.Lock()
        _trunks[self.key] = self

    def __reduce__(self) -> tuple[type[Trunk], tuple[FeatureNetwork]]:
        return Trunk, (self.network,)  # a copy has its own key and remakes what is derived

    def sizes(self, height: int, width: int) -> dict[str, tuple[int, int, int]]:
        """The (C, H, W) of each layer for images of a size."""
        found, channels, height_width = {}, 3, (height, width)
        for layer in self.network.layers:
            channels = layer.out_channels if isinstance(layer, Conv) else channels
            height_width = (layer.output_size(height_width[0]), layer.output_size(height_width[1]))
            found[layer.name] = (channels, *height_width)
        return found

    def forget(self) -> None:
        """Drops derived weights; to be called when the network has moved."""
        self._weights = {}

    def forward(self, x: Tensor, layers: Iterable[str], keep: bool) -> tuple[dict[str, Tensor], Tape]:
        """Features of normalised images.

        Args:
            x: (N, C, H, W), channels_last; the dtype is that of the arithmetic. Overwritten.
            layers: Names of the layers wanted.
            keep: Whether a backward is to follow.

        Returns:
            Features by layer name, and the tape for `backward`.
        """
        taps = frozenset(layers)
        depth = max(i for i, layer in enumerate(self.network.layers, start=1) if layer.name in taps)
        tape = Tape(taps, stages(self.network.layers[:depth]), [], self._derived(x.dtype))
        features: dict[str, Tensor] = {}
        for stage in tape.stages:
            x, saved = _forward(stage, x, features, tape, keep)
            tape.saved.append(saved)
        return features, tape

    def backward(self, tape: Tape, gradients: TapGradients) -> Tensor:  # (N, C, H, W)
        """The gradient by the normalised images, times gradients.scale.current where there is a scale. Uses the tape up.

        Tap gradients are asked for one by one, the deepest first, so that no two of them need to live at once.
        """
        x: Tensor | None = None
        while tape.saved:
            stage, saved = tape.stages[len(tape.saved) - 1], tape.saved.pop()
            x = _backward(stage, saved, x, tape, gradients)
        assert x is not None  # the deepest layer is tapped
        return x

    def _derived(self, dtype: torch.dtype) -> dict[str, ConvWeights]:
        with self._lock:
            if dtype not in self._weights:
                with torch.inference_mode(False), torch.no_grad():
                    self._weights[dtype] = {
                        layer.name: _derive(getattr(self.network, layer.name), layer, dtype)
                        for layer in self.network.layers
                        if isinstance(layer, Conv)
                    }
            return self._weights[dtype]


_trunks: weakref.WeakValueDictionary[str, Trunk] = weakref.WeakValueDictionary()
_numbers = itertools.count()


def trunk_of(key: str) -> Trunk:
    """The trunk with a key."""
    return _trunks[key]


def stages(layers: Sequence[Layer]) -> tuple[Stage, ...]:
    """The chain cut into stages."""
    found: list[Stage] = []
    rest = list(layers)
    while rest:
        conv = rest.pop(0) if isinstance(rest[0], Conv) else None
        relu = rest.pop(0) if rest and isinstance(rest[0], Relu) else None
        pool = rest.pop(0) if rest and isinstance(rest[0], Pool) else None
        found.append(Stage(conv, relu, pool))
    return tuple(found)


def _derive(module: nn.Conv2d, layer: Conv, dtype: torch.dtype) -> ConvWeights:
    weight = module.weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)
    flipped = weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
    growth = weight.float().abs().sum((0, 2, 3)).max().item() if dtype == torch.float16 else 1.0
    return ConvWeights(weight, module.bias.detach().to(dtype), flipped if layer.stride == 1 else None, growth)


def _forward(
    stage: Stage, x: Tensor, features: dict[str, Tensor], tape: Tape, keep: bool
) -> tuple[Tensor, Saved]:  # (N, C, H, W)
    conv, relu, pool = stage.conv, stage.relu, stage.pool
    saved, bias, tapped = Saved(), None, False  # whether x is a tap, and so must stay
    if conv:
        saved.conv_size = (x.shape[2], x.shape[3])
        weights = tape.weights[conv.name]
        tapped = conv.name in tape.taps
        folded = x.is_cuda and bool(relu or pool) and not tapped
        x = F.conv2d(x, weights.weight, None if folded else weights.bias, conv.stride, conv.padding)
        x = x.contiguous(memory_format=torch.channels_last)  # as it is, but for fp64 on the CPU
        bias = weights.bias if folded else None
        if tapped:
            features[conv.name] = x
    # A ReLU that nobody asked for is part of the pooling, and its signs part of the codes. An average has no codes.
    fused = relu and pool and relu.name not in tape.taps and not (keep and pool.kind == "average")
    if relu and not fused:
        x = x.clone(memory_format=torch.channels_last) if tapped or not conv else x
        signs = operators.bias_relu_(x, bias, keep)
        saved.signs, bias = signs if keep else None, None
        if relu.name in tape.taps:
            features[relu.name] = x
    if pool:
        saved.pool_size = (x.shape[2], x.shape[3])
        x, codes = operators.bias_relu_pool(x, bias, bool(fused), pool.kind, pool.kernel, pool.stride, keep)
        saved.codes = codes if keep and pool.kind != "average" else None
        if pool.name in tape.taps:
            features[pool.name] = x
    return x, saved


def _backward(
    stage: Stage,
    saved: Saved,
    x: Tensor | None,  # (N, C, H, W), the gradient by the stage's output but for a tap there
    tape: Tape,
    gradients: TapGradients,
) -> Tensor:  # (N, C, H, W)
    conv, relu, pool = stage.conv, stage.relu, stage.pool
    weights = tape.weights[conv.name] if conv else None
    growth = weights.growth if weights else 1.0
    scale = gradients.scale

    def taken(layer: Layer | None) -> str | None:
        return layer.name if layer and layer.name in tape.taps else None

    def rescaled(names: Iterable[str | None], spread: float, growth: float) -> Tensor | None:
        if scale is None:
            return None
        bounds = [gradients.bound(name) for name in names if name]
        return scale.choose(bounds, spread, growth, first=x is None)

    def of(name: str | None) -> Tensor | None:  # the tap's own gradient
        return gradients.gradient(name, scale.current if scale else None) if name else None

    at_end = taken(pool) if pool else taken(conv) if not relu else None
    if at_end:
        factor = rescaled([at_end], 1.0, 1.0 if pool else growth)
        tap = of(at_end)
        x = tap if x is None else (x if factor is None else x.mul_(factor.view(-1, 1, 1, 1))).add_(tap)
    if relu or pool:
        at_relu, at_conv = taken(relu), taken(conv)
        factor = rescaled([at_relu, at_conv], pool_spread(pool), growth)
        tap, below = of(at_relu), of(at_conv)
        if pool:
            assert x is not None and saved.pool_size is not None
            result = tap if tap is not None else _empty(x, saved.pool_size)
            maxima = operators.bias_relu_pool_backward_(
                result, x, saved.codes, saved.signs, tap is not None, below, factor, pool.kind, pool.kernel,
                pool.stride, scale is not None,
            )  # fmt: skip
            x = result
        else:
            x, tap = (tap, None) if x is None else (x, tap)
            maxima = operators.bias_relu_backward_(x, saved.signs, tap, below, factor, scale is not None)
        if scale:
            scale.measured(maxima, growth)
    if conv and weights:
        assert x is not None and saved.conv_size is not None
        x = _input_gradient(x, conv, weights, saved.conv_size)
    assert x is not None
    return x


def _input_gradient(
    x: Tensor, conv: Conv, weights: ConvWeights, size: tuple[int, int]
) -> Tensor:  # (N, out, H', W') -> (N, in, H, W)
    padding = conv.kernel - 1 - conv.padding
    if weights.flipped is not None and padding >= 0:
        x = F.conv2d(x, weights.flipped, padding=padding)
    else:
        shape = (x.shape[0], conv.in_channels, *size)
        x = nn.grad.conv2d_input(shape, weights.weight, x, conv.stride, conv.padding)
    return x.contiguous(memory_format=torch.channels_last)


def _empty(x: Tensor, size: tuple[int, int]) -> Tensor:  # (N, C, *, *) -> (N, C, H, W)
    shape = (x.shape[0], x.shape[1], *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def pool_spread(pool: Pool | None) -> float:
    """How much larger than its input a pooling's input gradient can be, at most."""
    if pool is None or pool.kind == "average":
        return 1.0 if pool is None else float(-((-pool.kernel // pool.stride) ** 2)) / pool.kernel**2
    if pool.kind == "max":
        return float(-((-pool.kernel // pool.stride) ** 2))
    return 4.0 * pool.kernel**2  # windows at stride 1, whose maxima the reflected border counts up to four times

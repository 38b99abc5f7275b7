"""Convolutions with weights that never change, channels_last in and out."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from ..networks.layers import Conv

# oneDNN's fp32 convolution in channels_last accumulates all products of an output in one chain, whose rounding error
# grows with the square root of its length: at 512 channels, six times that of torch's gradient in NCHW. Chains of this
# length cost 10 % more time.
CHAIN = 576
SMALL = torch.Size((1, 16, 4, 4))  # a size (N, C, H, W) that stands for those of all small maps


class Convolution:
    """A convolution prepared once for one dtype.

    On a CPU, oneDNN reorders weights into its blocked layout at every call: for 512 channels 9 MB of scratch memory in
    fp32, and a tenth of the time in bf16. Here the reordered weights are cached, as Inductor does with frozen weights.
    Where the layout depends on the input size they are reordered again for another size: otherwise oneDNN would do so
    at every call, by code that takes ten times as long as the convolution. In fp32 the input channels are convolved in
    groups and the results added.

    Args:
        weight: (out, in, k, k).
        bias: (out,) or None.
        stride, padding: As of `torch.nn.Conv2d`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> None:
        self.bias = bias
        self.stride: int = stride
        self.padding: int = padding
        self._shape = weight.shape
        self._group = _group(weight)
        self._blocked: dict[torch.Size | None, list[Tensor]] = {}  # by size of the input
        self._weight: Tensor | None = weight
        self._has_blocks = _has_blocks(weight)
        self._by_size = weight.dtype == torch.bfloat16 or torch.backends.cpu.get_cpu_capability() == "AVX2"
        # With AVX-512 in blocks of 32 output channels where a map is small, else of 48, between which oneDNN has no
        # fast reordering. AlexNet alone has such.
        self._has_two = not self._by_size and weight.shape[0] % 48 == 0
        if not self._has_blocks:
            self._weight = weight.contiguous(memory_format=torch.channels_last)
        elif not self._by_size and not self._has_two:
            self._blocked, self._weight = {None: self._in_blocks(weight, None)}, None

    def __call__(self, x: Tensor, biased: bool = True) -> Tensor:  # (N, in, H, W) -> (N, out, H', W')
        """The convolution, with its bias or without."""
        bias = self.bias if biased else None
        if self._has_blocks and x.shape[0]:
            x = self._by_blocks(x, bias)
        else:  # an empty batch reads no weights
            weight = x.new_empty(self._shape) if self._weight is None else self._weight
            x = F.conv2d(x, weight, bias, self.stride, self.padding)
        return x.contiguous(memory_format=torch.channels_last)  # as it is, but for fp64 on the CPU

    def _by_blocks(self, x: Tensor, bias: Tensor | None) -> Tensor:  # (N, in, H, W) -> (N, out, H', W')
        geometry = [self.padding] * 2, [self.stride] * 2, [1, 1], 1
        first, *others = self._blocked_for(x)
        if not others:
            return torch.ops.mkldnn._convolution_pointwise(x, first, bias, *geometry, "none", [], "")
        groups = (group.contiguous(memory_format=torch.channels_last) for group in x.split(self._group, dim=1))
        result = torch.ops.mkldnn._convolution_pointwise(next(groups), first, bias, *geometry, "none", [], "")
        for group, weight in zip(groups, others, strict=True):
            torch.ops.mkldnn._convolution_pointwise_.binary(
                result, group, weight, None, *geometry, "add", 1.0, None, [], None
            )
        return result

    def _blocked_for(self, x: Tensor) -> list[Tensor]:
        size = x.shape if self._by_size else SMALL if self._has_two and _is_small(x) else None
        found = self._blocked  # read once: another thread may replace it
        if size not in found:
            assert self._weight is not None
            others = {} if self._by_size else found
            with torch.inference_mode(False):
                found = self._blocked = {**others, size: self._in_blocks(self._weight, size)}
        return found[size]

    def _in_blocks(self, weight: Tensor, size: torch.Size | None) -> list[Tensor]:
        """The weights of each group of input channels."""
        geometry = [self.padding] * 2, [self.stride] * 2, [1, 1], 1
        groups = [group.contiguous() for group in weight.split(self._group, dim=1)]
        sizes = [None if size is None else (size[0], group.shape[1], *size[2:]) for group in groups]
        return [
            torch.ops.mkldnn._reorder_convolution_weight(group, *geometry, of_input)
            for group, of_input in zip(groups, sizes, strict=True)
        ]


class FrozenConv:
    """A network's convolution, forward and backward.

    An input gradient at stride 1 is a convolution with the weights flipped and transposed: on a CPU, torch's
    convolution_backward takes 3 (fp32) to 16 (bf16) times as long in channels_last.

    Args:
        module: Its weights.
        layer: Its geometry.
        dtype: Of the arithmetic.

    Attributes:
        growth: Bound of how much its backward amplifies a gradient, at least 1: a tensor () on the device, see
            `LossScale`; None unless the dtype is fp16.
    """

    def __init__(self, module: nn.Conv2d, layer: Conv, dtype: torch.dtype) -> None:
        weight = module.weight.detach().to(dtype)
        assert module.bias is not None
        self.layer = layer
        self.forward: Convolution = Convolution(weight, module.bias.detach().to(dtype), layer.stride, layer.padding)
        self._backward: Convolution | Tensor = weight
        if layer.stride == 1 and layer.padding < layer.kernel:
            self._backward = Convolution(weight.flip(2, 3).transpose(0, 1), None, 1, layer.kernel - 1 - layer.padding)
        self.growth: Tensor | None = None
        if dtype == torch.float16:
            self.growth = weight.float().abs().sum((0, 2, 3)).max().clamp(min=1)

    def input_gradient(self, grad: Tensor, size: tuple[int, int]) -> Tensor:  # (N, out, H', W') -> (N, in, H, W)
        """The gradient with respect to an input of (H, W) pixels."""
        if isinstance(self._backward, Convolution):
            return self._backward(grad)
        shape = (grad.shape[0], self.layer.in_channels, *size)
        x = conv2d_input(shape, self._backward, grad, self.layer.stride, self.layer.padding)
        return x.contiguous(memory_format=torch.channels_last)


def _group(weight: Tensor) -> int:
    """How many input channels one chain of sums takes, half at most; oneDNN's blocks have 16."""
    _, channels, height, width = weight.shape
    if weight.dtype != torch.float32:  # in 16 bits the rounding of the result is far larger
        return channels
    return max(16, min(CHAIN // (height * width), channels // 2) // 16 * 16)


def _is_small(x: Tensor) -> bool:  # (N, C, H, W)
    """Whether oneDNN takes the smaller blocks for it, as its log says (bench/NOTES.md)."""
    return x.shape[2] * x.shape[3] < 84


def _has_blocks(weight: Tensor) -> bool:
    """Whether oneDNN reorders these weights into a blocked layout."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    served: dict[torch.dtype, Callable[[], bool]] = {
        torch.float32: lambda: True,
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return weight.dtype in served and served[weight.dtype]()

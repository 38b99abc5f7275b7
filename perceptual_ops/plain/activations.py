"""What a trunk does between its convolutions: the operators of csrc/activation, in as few passes as torch takes.

Sums of gradients are made in the dtype of sums and rounded once, as in the compiled operators.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks as checks
from .. import activation_reference as oracle
from .. import reference
from . import bits

NHWC = torch.channels_last


def _wide(x: Tensor) -> Tensor:
    """In the dtype of sums; x itself where it is."""
    return x.to(checks.accumulator_dtype(x))


def _per_sample(numbers: Tensor) -> Tensor:  # (N) -> (N, 1, 1, 1)
    return numbers.view(-1, 1, 1, 1)


def _none(x: Tensor) -> Tensor:  # (0)
    return x.new_empty(0, dtype=torch.uint8)


def normalize_images(images: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    wide = torch.promote_types(dtype, torch.float32)
    normalized = oracle.affine(images.to(wide), scale.to(wide), shift.to(wide))
    return normalized.to(dtype).contiguous(memory_format=NHWC)


def normalize_images_backward(
    grad: Tensor, images: Tensor, scale: Tensor, factor: Tensor | None, add: Tensor | None
) -> Tensor:
    result = torch.empty_like(images, dtype=checks.accumulator_dtype(grad))
    factors = scale.to(result.dtype).view(-1, 1, 1)
    torch.mul(grad, factors if factor is None else _per_sample(factor) * factors, out=result)
    return result if add is None else result.add_(add)


def bias_relu_(x: Tensor, bias: Tensor | None, signs: bool) -> Tensor:
    if bias is not None:
        x += bias.view(-1, 1, 1)
    x.relu_()
    return bits.packed_signs(oracle.passes(x)) if signs else _none(x)


def bias_relu_backward_(
    grad: Tensor,
    signs: Tensor,
    tap: Tensor | None,
    below: Tensor | None,
    factor: Tensor | None,
    maxima: Tensor | None,
) -> None:
    _finish(_wide(grad), grad, signs, tap, below, factor, maxima)


def _finish(
    d: Tensor,  # (N, C, H, W), in the dtype of sums; overwritten
    to: Tensor,  # (N, C, H, W)
    signs: Tensor | None,
    tap: Tensor | None,
    below: Tensor | None,
    factor: Tensor | None,
    maxima: Tensor | None,
) -> None:
    """The end of both backwards: to = (signs ? factor * d + tap : 0) + below."""
    if factor is not None:
        d *= _per_sample(factor)
    if tap is not None:
        d += tap
    if signs is not None:
        bits.masked(d, bits.mask_of_signs(signs, to.shape[1:]), out=d)
    if below is not None:
        d += below
    if d is not to:
        to.copy_(d)
    if maxima is not None and to.numel():
        torch.maximum(maxima, to.abs().flatten(1).amax(1).to(maxima.dtype), out=maxima)


def bias_relu_pool(
    x: Tensor, bias: Tensor | None, relu: bool, kind: str, kernel: int, stride: int, codes: bool
) -> tuple[Tensor, Tensor]:
    value = oracle.biased(_wide(x), bias)
    if kind == "average":
        pooled, found = F.avg_pool2d(value.relu() if relu else value, kernel, stride), _none(x)
    else:
        step = oracle.step_of(kind, stride)
        maxima = F.max_pool2d(value, kernel, step)
        found = _codes(value, maxima, kernel, step, relu) if codes else _none(x)
        pooled = oracle.filtered(maxima.relu_() if relu else maxima, kind, kernel, stride)
    return pooled.to(x.dtype).contiguous(memory_format=NHWC), found


def _codes(x: Tensor, maxima: Tensor, kernel: int, step: int, relu: bool) -> Tensor:
    """Which element of each window is the first of its maxima, or the last NaN, as in torch; packed."""
    *windows, last = oracle.windows(x, kernel, step)
    codes = torch.zeros_like(maxima, dtype=torch.uint8)
    for value in reversed(windows):
        codes.add_(1).mul_(value != maxima)
    if (lost := maxima.isnan()).any():
        for i, value in enumerate([*windows, last]):
            codes.masked_fill_(lost & value.isnan(), i)
    if relu:
        codes |= (maxima <= 0).view(torch.uint8).neg_()  # all bits
    return bits.packed_codes(codes, oracle.code_bits(kernel))


def bias_relu_pool_(
    x: Tensor, bias: Tensor | None, kind: str, kernel: int, stride: int, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    signs = bias_relu_(x, bias, keep)
    pooled, codes = bias_relu_pool(x, None, False, kind, kernel, stride, keep)
    return pooled, signs, codes


def bias_relu_pool_backward_(
    x: Tensor,
    grad: Tensor,
    codes: Tensor | None,
    signs: Tensor | None,
    tap: bool,
    below: Tensor | None,
    factor: Tensor | None,
    kind: str,
    kernel: int,
    stride: int,
    maxima: Tensor | None,
) -> None:
    size, step = (x.shape[2], x.shape[3]), oracle.step_of(kind, stride)
    positions = _none(x)
    if codes is not None and kind != "average":
        rows, columns = ((side - kernel) // step + 1 for side in size)
        positions = bits.codes_of(codes, oracle.code_bits(kernel), (x.shape[1], rows, columns))
    d = _spread(_wide(grad), positions, size, kind, kernel, stride)
    _finish(d, x, signs, x if tap else None, below, factor, maxima)


def _spread(grad: Tensor, codes: Tensor, size: tuple[int, int], kind: str, kernel: int, stride: int) -> Tensor:
    """The gradient by what is pooled: each window's goes where its maximum lay, or nowhere."""
    found = torch.empty((*grad.shape[:2], *size), dtype=grad.dtype, device=grad.device, memory_format=NHWC).zero_()
    if kind == "average":
        return torch.ops.aten.avg_pool2d_backward(
            grad, found, [kernel] * 2, [stride] * 2, [0, 0], False, True, None
        )
    if kind == "blur":
        grad, stride = _filtered_backward(grad, codes, stride), 1
    for i, position in enumerate(oracle.windows(found, kernel, stride)):
        mask = (codes == i).view(torch.int8).neg_()
        if stride < kernel:  # windows overlap
            position += bits.masked(grad, mask, out=torch.empty_like(grad))
        else:
            bits.masked(grad, mask, out=position)
    return found


def _filtered_backward(grad: Tensor, maxima: Tensor, stride: int) -> Tensor:
    """From the gradient by filtered maxima to that by the maxima, whose size is that of `maxima`."""
    rows, columns = (size + 4 for size in maxima.shape[2:])  # with the reflected border
    weight = reference.binomial_filter(grad)
    left = [(size - 3) % stride for size in (rows, columns)]
    padded = F.conv_transpose2d(grad, weight, None, stride, 0, left, groups=grad.shape[1])
    return torch.ops.aten.reflection_pad2d_backward(padded, grad.new_empty(maxima.shape), [2, 2, 2, 2])


def l2_pool(x: Tensor) -> Tensor:
    return reference.l2_pool(x).contiguous(memory_format=NHWC)


def l2_pool_backward(grad: Tensor, x: Tensor) -> Tensor:
    wide, kernel = _wide(x), reference.binomial_filter(_wide(x))
    spread = _wide(grad) / reference.l2_pool(wide)
    padding = [1 - size % 2 for size in x.shape[2:]]  # what the stride leaves over
    found = F.conv_transpose2d(spread, kernel, None, 2, 1, padding, groups=x.shape[1]).mul_(wide)
    return found.to(x.dtype).contiguous(memory_format=NHWC)


def loss_scale(
    scale: Tensor | None,
    bound: Tensor | None,
    grown: Tensor | None,
    spread: float,
    taps: list[Tensor],
    grows: Tensor | None,
    room: float,
) -> Tensor:
    return oracle.loss_scale(scale, bound, grown, spread, taps, grows, room)

"""What lies between a trunk's convolutions: the operators of csrc/activation, in as few passes as torch allows.

Gradients are summed in the accumulation dtype and rounded once, as in the compiled operators.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks as checks
from .. import activation_reference as oracle
from .. import reference
from . import bits
from .blocks import row_blocks

NHWC = torch.channels_last
MAX_EXPONENT = 60  # of a scale, so that the ratio of two is finite in fp32


def _wide(x: Tensor) -> Tensor:
    """x in the accumulation dtype; x itself if it has that."""
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
    signs_of_rows = []
    for rows in row_blocks(x):
        part = x[:, :, rows]
        if bias is not None:
            part += bias.to(checks.accumulator_dtype(x)).view(-1, 1, 1)
        part.relu_()
        if signs:
            signs_of_rows.append(bits.packed_signs(part != 0))  # NaN passes
    return torch.cat(signs_of_rows, 1) if signs else _none(x)


def bias_relu_backward_(
    grad: Tensor,
    signs: Tensor,
    tap: Tensor | None,
    below: Tensor | None,
    factor: Tensor | None,
    maxima: Tensor | None,
) -> None:
    for rows in row_blocks(grad):
        _finish(_wide(grad[:, :, rows]), grad, rows, signs, tap, below, factor, maxima)


def _finish(
    d: Tensor,  # (N, C, rows, W), in the dtype of sums; overwritten
    to: Tensor,  # (N, C, H, W)
    rows: slice,
    signs: Tensor | None,
    tap: Tensor | None,
    below: Tensor | None,
    factor: Tensor | None,
    maxima: Tensor | None,
) -> None:
    """The end of both backwards, for some rows: to = (signs ? factor * d + tap : 0) + below."""
    part = to[:, :, rows]
    if factor is not None:
        d *= _per_sample(factor)
    if tap is not None:
        d += tap[:, :, rows]
    if signs is not None:
        bits.masked(d, bits.mask_of_signs(signs, to.shape[1:], rows), out=d)
    if below is not None:
        d += below[:, :, rows]
    if d.data_ptr() != part.data_ptr():
        part.copy_(d)
    if maxima is not None and part.numel():
        torch.maximum(maxima, part.abs().amax((1, 2, 3)).to(maxima.dtype), out=maxima)


def bias_relu_pool(
    x: Tensor, bias: Tensor | None, relu: bool, kind: str, kernel: int, stride: int, codes: bool
) -> tuple[Tensor, Tensor]:
    step = oracle.step_of(kind, stride)
    windows = [(side - kernel) // step + 1 for side in x.shape[2:]]
    # The filter of "blur" reads maxima on both sides of a block.
    if kind == "blur":
        pooled = _none(x)
    else:
        shape = (*x.shape[:2], *windows)
        pooled = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=NHWC)
    blocks = [slice(0, windows[0])] if kind == "blur" else row_blocks(pooled)
    codes_of_rows = []
    for rows in blocks:
        value = oracle.biased(_wide(x[:, :, _read(rows, kernel, step)]), bias)
        if kind == "average":
            maxima = value.relu() if relu else value
        else:
            maxima, indices = F.max_pool2d(value, kernel, step, return_indices=True)
            if codes:
                codes_of_rows.append(_codes(indices, maxima, x.shape[3], kernel, step, relu))
            maxima = maxima.relu_() if relu else maxima
        result = oracle.filtered(maxima, kind, kernel, stride)
        if kind == "blur":
            pooled = result.to(x.dtype).contiguous(memory_format=NHWC)
        else:
            pooled[:, :, rows].copy_(result)
    return pooled, torch.cat(codes_of_rows, 1) if codes_of_rows else _none(x)


def _read(rows: slice, kernel: int, step: int) -> slice:
    """The input rows of rows of windows."""
    return slice(rows.start * step, max(rows.stop - 1, 0) * step + kernel)


def _codes(indices: Tensor, maxima: Tensor, width: int, kernel: int, step: int, relu: bool) -> Tensor:
    """The position of each maximum in its window, from the indices of torch's pooling; packed."""
    rows, columns = (
        torch.arange(0, side * step, step, dtype=torch.int32, device=maxima.device) for side in maxima.shape[2:]
    )
    offset = indices.to(torch.int32).sub_(rows.view(-1, 1) * width + columns)  # row * width + column, in the window
    codes = offset.clone() if kernel > 1 else offset
    for row in range(1, kernel):
        codes -= (offset >= row * width).to(torch.int32).mul_(width - kernel)
    codes = codes.to(torch.uint8)
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
    height, width = x.shape[2:]
    rest = signs, x if tap else None, below, factor, maxima
    step = oracle.step_of(kind, stride)
    windows = [(side - kernel) // step + 1 for side in (height, width)]

    def positions(rows: slice) -> Tensor:
        if codes is None or kind == "average":
            return _none(x)
        return bits.codes_of(codes, oracle.code_bits(kernel), (x.shape[1], *windows), rows)

    # The filter of "blur" reads maxima on both sides of a block, and has more rows than they or fewer.
    whole = kind == "blur"
    for rows in [slice(0, height)] if whole else row_blocks(x):
        read = _windows_over(rows, windows[0], kernel, step)
        first, end = read.start * step, max(rows.stop, _read(read, kernel, step).stop)
        upstream = _wide(grad if whole else grad[:, :, read])
        d = _spread(upstream, positions(read), (end - first, width), kind, kernel, stride)
        _finish(d[:, :, rows.start - first : rows.stop - first], x, rows, *rest)


def _windows_over(rows: slice, count: int, kernel: int, step: int) -> slice:
    """The rows of windows, out of `count`, that read some rows of a map.

    At least one, and starting at an even row, so that they begin at a byte of codes.
    """
    first = min(max((rows.start - kernel) // step + 1, 0), count - 1)
    return slice(first - first % 2, min((rows.stop - 1) // step + 1, count))


def _spread(grad: Tensor, codes: Tensor, size: tuple[int, int], kind: str, kernel: int, stride: int) -> Tensor:
    """The gradient with respect to a pooling's input: each window's goes to its argmax, or nowhere."""
    gradient = torch.empty((*grad.shape[:2], *size), dtype=grad.dtype, device=grad.device, memory_format=NHWC).zero_()
    if kind == "average":
        made: Tensor = torch.ops.aten.avg_pool2d_backward(
            grad, gradient, [kernel] * 2, [stride] * 2, [0, 0], False, True, None
        )
        return made
    if kind == "blur":
        grad, stride = _filtered_backward(grad, codes, stride), 1
    for i, position in enumerate(oracle.windows(gradient, kernel, stride)):
        mask = (codes == i).view(torch.int8).neg_()
        if stride < kernel:  # windows overlap
            position += bits.masked(grad, mask, out=torch.empty_like(grad))
        else:
            bits.masked(grad, mask, out=position)
    return gradient


def _filtered_backward(grad: Tensor, codes: Tensor, stride: int) -> Tensor:
    """From d loss / d filtered maxima to d loss / d maxima, one for each code."""
    rows, columns = (size + 4 for size in codes.shape[2:])  # with the reflected border
    weight = reference.binomial_filter(grad)
    left = [(size - 3) % stride for size in (rows, columns)]
    padded = F.conv_transpose2d(grad, weight, None, stride, 0, left, groups=grad.shape[1])
    made: Tensor = torch.ops.aten.reflection_pad2d_backward(padded, grad.new_empty(codes.shape), [2, 2, 2, 2])
    return made


def l2_pool(x: Tensor) -> Tensor:
    pooled = torch.empty(_l2_shape(x), dtype=x.dtype, device=x.device, memory_format=NHWC)
    for rows in row_blocks(pooled):
        pooled[:, :, rows].copy_(_l2_rows(x, rows))
    return pooled


def l2_pool_backward(grad: Tensor, x: Tensor) -> Tensor:
    kernel, height = reference.binomial_filter(_wide(x[:, :, :1])), x.shape[2]
    right = 1 - x.shape[3] % 2  # what the stride leaves over
    made = torch.empty_like(x, memory_format=NHWC)
    for rows in row_blocks(grad):
        # The rows of x that lie between these rows' centres, the first of them, and the next row's.
        own = slice(2 * rows.start, min(2 * rows.stop, height))
        read = slice(rows.start, min(rows.stop + 1, grad.shape[2]))
        spread = _wide(grad[:, :, read]) / _l2_rows(x, read)
        found = F.conv_transpose2d(F.pad(spread, (0, 0, 0, 1)), kernel, None, 2, (1, 1), (1, right), groups=x.shape[1])
        made[:, :, own].copy_(found[:, :, : own.stop - own.start].mul_(x[:, :, own]))
    return made


def _l2_shape(x: Tensor) -> tuple[int, ...]:
    return (*x.shape[:2], *((side - 1) // 2 + 1 for side in x.shape[2:]))


def _l2_rows(x: Tensor, rows: slice) -> Tensor:
    """Some rows of `l2_pool`, in the accumulation dtype."""
    first, end = 2 * rows.start - 1, 2 * rows.stop
    squares = _wide(x[:, :, max(first, 0) : end]).square()
    padded = F.pad(squares, (0, 0, int(first < 0), max(end - x.shape[2], 0)))
    mean_squares = F.conv2d(padded, reference.binomial_filter(squares), stride=2, padding=(0, 1), groups=x.shape[1])
    return mean_squares.add_(reference.L2_POOL_EPS).sqrt_()


def loss_scale(
    scale: Tensor | None,
    bound: Tensor | None,
    grown: Tensor | None,
    spread: float,
    taps: list[Tensor],
    grows: Tensor | None,
    room: float,
) -> Tensor:
    first = taps[0] if bound is None else bound
    before = torch.ones_like(first) if scale is None else scale
    come = torch.zeros_like(first) if bound is None else bound * (1 if grown is None else grown) * spread
    for tap in taps:
        come = come + before * tap
    exponent = _exponent(before) + _exponent(room / (1 if grows is None else grows) / come)
    following = (exponent.clamp(-MAX_EXPONENT, MAX_EXPONENT) + 127 << 23).view(torch.float32)
    factor = following / before
    return torch.stack([following, factor, come * factor, torch.zeros_like(come)])


def _exponent(x: Tensor) -> Tensor:  # fp32
    """The binary exponent of x >= 0; 128 for infinity and NaN, -127 for zero."""
    return (x.view(torch.int32) >> 23 & 0xFF) - 127

"""What lies between a trunk's convolutions, in plain PyTorch: the oracle of the operators in csrc/activation.

Everything computes in the dtype of its input: pass fp64 for the exact result. Window positions are row-major.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference

NOWHERE = -1  # code of a window whose maximum does not pass the ReLU


def flat(x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, H * W * C), in the order of a channels_last map
    return x.permute(0, 2, 3, 1).flatten(1)


def packed(values: Tensor, bits: int) -> Tensor:
    """Packs small integers (N, C, H, W), `bits` bits each, into bytes (N, ceil(C H W bits / 8)), lowest bits first."""
    count = 8 // bits
    padded = F.pad(flat(values.to(torch.int64) & (2**bits - 1)), (0, -flat(values).shape[1] % count))
    shifts = bits * torch.arange(count, device=values.device)
    groups: Tensor = padded.unflatten(1, (-1, count))
    return (groups << shifts).sum(-1).to(torch.uint8)


def unpacked(numbers: Tensor, bits: int, shape: tuple[int, int, int]) -> Tensor:
    """Inverse of `packed`: a map (N, *shape)."""
    shifts = bits * torch.arange(8 // bits, device=numbers.device)
    values = (numbers.unsqueeze(-1).to(torch.int64) >> shifts & 2**bits - 1).flatten(1)
    channels, height, width = shape
    pixels: Tensor = values[:, : channels * height * width].unflatten(1, (height, width, channels))
    return pixels.permute(0, 3, 1, 2)


def code_bits(kernel: int) -> int:
    """Bits of a window position; all are set for `NOWHERE`."""
    return 4 if kernel <= 3 else 8


def loss_scale(
    scale: Tensor | None,  # (N)
    bound: Tensor | None,  # (N)
    grown: Tensor | None,  # ()
    spread: float,
    taps: list[Tensor],  # K x (N)
    grows: Tensor | None,  # ()
    room: float,
) -> Tensor:  # (4, N)
    """The next scale, its ratio to the last one, the new bound, and zeros; for finite bounds above 0."""
    first = taps[0] if bound is None else bound
    before = torch.ones_like(first) if scale is None else scale
    come = torch.zeros_like(first) if bound is None else bound * (1 if grown is None else grown) * spread
    come = come + sum(before * tap for tap in taps)
    exponent = (room / (1 if grows is None else grows) / come).log2().floor() + before.log2()
    factor = exponent.clamp(-60, 60).exp2() / before
    return torch.stack([before * factor, factor, come * factor, torch.zeros_like(come)])


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:  # (N, C, H, W), (C), (C)
    return x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)


def biased(x: Tensor, bias: Tensor | None) -> Tensor:  # (N, C, H, W), (C)
    return x if bias is None else x + bias.view(-1, 1, 1)


def passes(x: Tensor) -> Tensor:
    """Where a gradient passes the ReLU of x; where x is NaN it does, as in torch."""
    return ~(x <= 0)


def windows(x: Tensor, kernel: int, stride: int) -> list[Tensor]:
    """Each position of all windows, as a map (N, C, H', W')."""
    views = x.unfold(2, kernel, stride).unfold(3, kernel, stride)
    return [views[..., row, column] for row in range(kernel) for column in range(kernel)]


def step_of(kind: str, stride: int) -> int:
    """Stride of the maxima's windows: in "blur", the filter has the stride."""
    return 1 if kind == "blur" else stride


def first_maxima(x: Tensor, kernel: int, stride: int, relu: bool) -> tuple[Tensor, Tensor]:
    """Maximum of each window and its position, the first of equals, the last of NaNs (torch's rule)."""
    positions = windows(x, kernel, stride)
    best, code = positions[0].clone(), torch.zeros_like(positions[0], dtype=torch.int64)
    for i, value in enumerate(positions[1:], start=1):
        better = (value > best) | value.isnan()
        best, code = torch.where(better, value, best), torch.where(better, i, code)
    return best, torch.where(passes(best), code, NOWHERE) if relu else code


def filtered(maxima: Tensor, kind: str, kernel: int, stride: int) -> Tensor:
    """The second step of a pooling: nothing, the mean of each window, or the binomial filter."""
    if kind == "max":
        return maxima
    if kind == "average":
        return F.avg_pool2d(maxima, kernel, stride)
    wide = maxima.float() if maxima.dtype == torch.float16 else maxima  # torch 2.4 reflects no fp16 on a CPU
    padded = F.pad(wide, (2, 2, 2, 2), mode="reflect").to(maxima.dtype)
    return F.conv2d(padded, reference.binomial_filter(maxima), stride=stride, groups=maxima.shape[1])


def pooled(x: Tensor, kind: str, kernel: int, stride: int, relu: bool) -> tuple[Tensor, Tensor]:
    """Pooled map and codes of relu(x), or of x; for "average" the codes say nothing."""
    value = torch.where(passes(x), x, 0) if relu else x
    if kind == "average":
        return filtered(value, kind, kernel, stride), torch.zeros_like(value)
    _, codes = first_maxima(x, kernel, step_of(kind, stride), relu)
    maxima, _ = first_maxima(value, kernel, step_of(kind, stride), relu=False)
    return filtered(maxima, kind, kernel, stride), codes


def pooled_backward(
    grad: Tensor,  # (N, C, H', W')
    codes: Tensor,  # of each window of the maxima
    size: tuple[int, int],
    kind: str,
    kernel: int,
    stride: int,
) -> Tensor:  # (N, C, *size)
    """The gradient of a pooling with respect to its input, from the codes of the argmaxes."""
    wide = grad.new_zeros((*grad.shape[:2], *size))
    with torch.enable_grad():
        maxima = (wide if kind == "average" else grad.new_zeros(codes.shape)).requires_grad_()
        (of_maxima,) = torch.autograd.grad(filtered(maxima, kind, kernel, stride), maxima, grad)
    if kind == "average":
        return of_maxima
    result = torch.zeros_like(wide)
    for i, position in enumerate(windows(result, kernel, step_of(kind, stride))):
        position += torch.where(codes == i, of_maxima, 0)  # a view of the result
    return result.detach()

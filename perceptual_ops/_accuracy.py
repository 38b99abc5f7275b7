"""The accuracy policy of operators and random maps to test it on, for tests and `perceptual-ops doctor --check`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def random_map(shape: Sequence[int], dtype: torch.dtype, device: str | torch.device, seed: int = 0) -> Tensor:
    """Normal numbers that are the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64).to(device, dtype)


def _sliced(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    wider = x.new_full((x.shape[0] + 2, x.shape[1] + 3, *x.shape[2:]), 99.0).contiguous(memory_format=memory_format)
    view = wider[1:-1, 2:-1]
    view.copy_(x)
    return view


def _cropped(x: Tensor) -> Tensor:
    larger = x.new_full((*x.shape[:2], x.shape[2] + 2, x.shape[3] + 3), 99.0)
    view = larger[:, :, 1:-1, 1:-2]
    view.copy_(x)
    return view


# Views of a map with the same values and other strides.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "nchw": lambda x: x.clone(memory_format=torch.contiguous_format),
    "nhwc": lambda x: x.clone(memory_format=torch.channels_last),
    "sliced nchw": lambda x: _sliced(x, torch.contiguous_format),
    "sliced nhwc": lambda x: _sliced(x, torch.channels_last),
    "cropped": _cropped,
    "every other sample": lambda x: x.repeat_interleave(2, dim=0)[::2],
    "columns outside rows": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "batch inside": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "channels between": lambda x: x.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3),
}


def relative_error(x: Tensor, exact: Tensor) -> float:
    """The largest error over the largest value; 0 for empty tensors."""
    if exact.numel() == 0:
        return 0.0
    exact = exact.double()
    return ((x.double() - exact).abs().max() / exact.abs().max().clamp_min(1e-300)).item()


# Last places (ulps) that a result may be off whatever the naive run's luck. In fp64 the oracle itself is no better: a
# mean of P values of both signs loses sqrt(P) of them, and which way depends on the processor's vectors.
LAST_PLACES = {torch.float64: 128, torch.float32: 4, torch.float16: 2, torch.bfloat16: 2}


def allowed_error(dtype: torch.dtype, naive: Tensor, exact: Tensor) -> float:
    """The policy: at most twice the error of a naive run in the same dtype, which may overflow where ours must not.

    Args:
        dtype: Of the result, whose last places count. Whole numbers are to be equal.
    """
    if not dtype.is_floating_point:
        return 0.0
    last_places = LAST_PLACES[dtype] * torch.finfo(dtype).eps
    return last_places + (2 * relative_error(naive, exact) if naive.isfinite().all() else torch.finfo(naive.dtype).eps)

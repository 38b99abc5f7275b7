"""Weights of the samples of a call, by which those of weight 0 need not run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from .. import _checks as checks
from .. import ops
from ..engine.cuda_graph import is_capturing

if TYPE_CHECKING:
    from typing_extensions import Self


class Array(Protocol):
    """One of NumPy, or what becomes one."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any: ...


Numbers = Tensor | Sequence[float] | Sequence[Tensor] | Array  # (N,)


@dataclass(frozen=True)
class SampleWeight:
    """What the values of each sample are multiplied by.

    Attributes:
        factors: (N), where the values are; None: nothing.
        skipped: Whether each sample is left out, (N); empty where it is not known, and all run.
    """

    factors: Tensor | None = None
    skipped: tuple[bool, ...] = ()

    @classmethod
    def of(cls, weight: Numbers | None, count: int, device: torch.device, dtype: torch.dtype) -> Self:
        """By a call's argument `sample_weight` for `count` samples.

        Numbers of a list and of a tensor are looked at, for which a CUDA tensor makes the host wait once. Those of a
        tensor are not where it requires grad, whose gradient is the values, in compiled code, in programs and, on the
        loss's device, in a CUDA graph that is captured.
        """
        if weight is None:
            return cls()
        weight = _without_arrays(weight)
        if isinstance(weight, (list, tuple)):
            _check_count(len(weight), count)
            return cls._known([float(x) if isinstance(x, bool) else x for x in weight], device, dtype)
        if not isinstance(weight, Tensor) or weight.is_complex():
            came = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
            raise TypeError(f"sample_weight: expected a list or tensor of numbers, one for each sample; got {came}")
        if weight.dim() != 1:
            raise ValueError(f"sample_weight: expected shape ({count},), got {tuple(weight.shape)}")
        _check_count(weight.shape[0], count)
        if weight.device.type != "cpu" and weight.device != device:
            raise ValueError(
                f"sample_weight: expected it on {device}, where the loss is, or on the CPU; got {weight.device}"
            )
        is_trained = weight.requires_grad and torch.is_grad_enabled()
        is_captured = weight.device == device and is_capturing(device)
        if is_trained or is_captured or torch.compiler.is_compiling() or ops.makes_program():
            return cls(weight.to(device, dtype))
        return cls._known([float(x) for x in weight.tolist()], device, dtype)

    @classmethod
    def _known(cls, numbers: Sequence[float], device: torch.device, dtype: torch.dtype) -> Self:
        numbers = [checks.check_number(f"sample_weight[{i}]", number) for i, number in enumerate(numbers)]
        if is_capturing(device):  # replays would read the host's memory, which is another's by then
            factors = torch.empty(len(numbers), dtype=dtype, device=device)
            for factor, number in zip(factors.unbind(), numbers, strict=True):
                factor.fill_(number)
        else:  # a few numbers of memory that is not pinned are read at once: nothing waits, and nobody changes them
            factors = torch.tensor(numbers, dtype=dtype, device="cpu").to(device, non_blocking=True)
        return cls(factors, tuple([number == 0 for number in numbers]))

    def times(self, values: Tensor) -> Tensor:  # (N, ...)
        if self.factors is None:
            return values
        return values * self.factors.to(values.dtype).view(-1, *[1] * (values.dim() - 1))


def _without_arrays(weight: Any) -> Any:
    """An array of NumPy, or a list of tensors of one number each, as a tensor; all else as it is."""
    if isinstance(weight, (list, tuple)):
        are_tensors = len(weight) > 0 and all(isinstance(x, Tensor) and x.dim() == 0 for x in weight)
        return torch.stack(list(weight)) if are_tensors else weight
    if hasattr(weight, "__array__") and not isinstance(weight, Tensor):
        with suppress(TypeError):  # no numbers, which is said where all is checked
            return torch.as_tensor(weight.copy())  # torch takes no strides below 0
    return weight


def _check_count(came: int, count: int) -> None:
    if came != count:
        raise ValueError(f"sample_weight: expected {count} numbers, one for each sample of output; got {came}")

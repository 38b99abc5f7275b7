"""A call of an operator, and the same in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..._accuracy import LAYOUTS, random_map

Shape = tuple[int, int, int, int]
# Odd tails, one channel and one column, more than a tile of channels over several stages of a pipeline.
SHAPES: tuple[Shape, ...] = ((2, 5, 7, 9), (3, 1, 5, 1), (1, 70, 13, 11))
LAYOUTS_CHECKED = ("nchw", "nhwc", "sliced nchw", "sliced nhwc", "cropped")


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        where: What tells it from other calls of the operator.
        run: Calls the operator -> its results, in place or not.
        plain: The same in plain PyTorch: in fp64 for True, else in the dtype of the call, as a user writes it.
        rounding: The dtype to which results are rounded on the way; None: each to its own at the end.
    """

    where: str
    run: Callable[[], list[Tensor]]
    plain: Callable[[bool], list[Tensor]]
    rounding: torch.dtype | None = None


Cases = Callable[[torch.dtype, torch.device], Iterator[Case]]  # of an operator in a dtype


@dataclass(frozen=True)
class Data:
    """Random arguments of one call, the same on every device."""

    dtype: torch.dtype
    device: torch.device
    layout: str
    shape: Shape

    @property
    def wide(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def map(self, seed: int, shape: Sequence[int] | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """A map (N, C, H, W) in the layout."""
        return LAYOUTS[self.layout](random_map(shape or self.shape, dtype or self.dtype, self.device, seed))

    def numbers(self, seed: int, *shape: int) -> Tensor:
        """Random numbers in the accumulation dtype."""
        return random_map(shape, self.wide, self.device, seed)


def cases_of(
    name: str,
    arguments: Callable[[Data], Iterable[Sequence[Any]]],
    plain: Callable[..., Any],
    shapes: Sequence[Shape] = SHAPES,
    rounds: bool = False,
) -> Cases:
    """Calls in both layouts, every shape and with all settings; a slice has one shape, and takes turns at the settings.

    Args:
        name: Of an operator of the library.
        arguments: Those of some calls; tensors, and lists of them, among others.
        plain: The same function in plain PyTorch, which gives what was written first.
        rounds: See `Case.rounding`.
    """

    def cases(dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
        for number, layout in enumerate(LAYOUTS_CHECKED):
            sliced = number >= 2
            for shape in shapes[:1] if sliced else shapes:
                calls = list(arguments(Data(dtype, device, layout, shape)))
                for given in calls[number % len(calls) :][:1] if sliced else calls:
                    where = [layout, shape, *(one for one in given if isinstance(one, str | int | float | bool))]
                    yield _case(" ".join(map(str, where)), name, given, plain, dtype if rounds else None)

    return cases


def _case(where: str, name: str, given: Sequence[Any], plain: Callable[..., Any], rounding: torch.dtype | None) -> Case:
    operator = getattr(torch.ops.perceptual_ops, name)
    arguments = enumerate(operator.default._schema.arguments)
    written = [i for i, one in arguments if one.alias_info is not None and one.alias_info.is_write]

    def run() -> list[Tensor]:
        own = [x.clone() if i in written else x for i, x in enumerate(given)]
        results = operator(*own)
        return flat([*(own[i] for i in written), [] if results is None else results])

    return Case(where, run, lambda exact: flat(plain(*(doubled(given) if exact else given))), rounding)


def flat(values: Any) -> list[Tensor]:
    """The tensors of nested lists and tuples."""
    return [values] if isinstance(values, Tensor) else [x for value in values for x in flat(value)]


def doubled(value: Any) -> Any:
    """The same with tensors, and dtypes, converted to fp64."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, list | tuple):
        return type(value)(map(doubled, value))
    return torch.float64 if isinstance(value, torch.dtype) else value


def gradients(
    value: Callable[..., Tensor | list[Tensor]], inputs: Sequence[Tensor], upstream: Tensor | list[Tensor] | None
) -> list[Tensor]:
    """The gradients of value(*inputs) with respect to its inputs, by autograd; upstream None stands for ones."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    values = value(*leaves)
    if upstream is None and isinstance(values, Tensor):
        upstream = torch.ones_like(values)
    return list(torch.autograd.grad(values, leaves, upstream))

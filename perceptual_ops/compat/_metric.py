"""torchmetrics.Metric where it can be imported, else what the metrics need of it."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

State = Tensor | list[Tensor]


class PlainMetric(nn.Module):
    """`update`, `compute`, `reset`, and a forward that gives a batch's own value and remembers the batch.

    As in torchmetrics only forward makes a graph: `update` runs without. States move with the module. They are not
    synchronised between processes.
    """

    def __init__(self, **kwargs: object) -> None:
        super().__init__()
        if kwargs:
            raise TypeError(
                f"{next(iter(kwargs))}: expected no such argument without torchmetrics; install torchmetrics"
            )
        self._defaults: dict[str, State] = {}
        self._in_forward = False
        self.update_called = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "update" in vars(cls):
            cls.update = _update_without_graph(cls.update)

    def add_state(self, name: str, default: State, dist_reduce_fx: str | None = None) -> None:
        """A state that is summed over batches (a tensor), or collected (a list)."""
        self._defaults[name] = default
        setattr(self, name, copy.copy(default))

    def reset(self) -> None:
        for name, default in self._defaults.items():
            value = getattr(self, name)
            setattr(self, name, [] if isinstance(default, list) else torch.zeros_like(value))
        self.update_called = False

    update: Callable[..., None]
    compute: Callable[[], Tensor]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        before = {name: getattr(self, name) for name in self._defaults}
        self.reset()
        self._in_forward = True
        self.update(*args, **kwargs)
        self._in_forward = False
        value = self.compute()
        for name, state in before.items():
            own = getattr(self, name)
            setattr(self, name, state + ([x.detach() for x in own] if isinstance(own, list) else own.detach()))
        return value

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        for name in self._defaults:
            state = getattr(self, name)
            moved = [fn(x) for x in state] if isinstance(state, list) else state.to(fn(state).device)
            setattr(self, name, moved)
        return self


def _update_without_graph(update: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(update)
    def wrapped(self: PlainMetric, *args: Any, **kwargs: Any) -> None:
        with torch.set_grad_enabled(self._in_forward and torch.is_grad_enabled()):
            update(self, *args, **kwargs)
        self.update_called = True

    return wrapped


if TYPE_CHECKING:
    Metric = PlainMetric
else:
    try:
        from torchmetrics import Metric
    except Exception as error:  # whatever an installation of it, or of a package it imports, may raise
        Metric = PlainMetric
        if not (isinstance(error, ModuleNotFoundError) and error.name == "torchmetrics"):
            warnings.warn(
                f"torchmetrics is installed but cannot be imported ({type(error).__name__}: {error}): the metrics of "
                "perceptual_ops.compat.torchmetrics are not synchronised between processes and fit into no "
                "MetricCollection; mend its installation, often a torchvision built for another torch",
                RuntimeWarning,
                stacklevel=2,
            )

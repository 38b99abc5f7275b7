"""torchmetrics.Metric where it can be imported, else what the metrics need of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

State = Tensor | list[Tensor]


class PlainMetric(nn.Module):
    """`update`, `compute`, `reset`, and a forward that gives a batch's own value and remembers the batch.

    States move with the module. Nothing is synchronised between processes.
    """

    def __init__(self, **kwargs: object) -> None:
        super().__init__()
        if kwargs:
            raise TypeError(
                f"{next(iter(kwargs))}: expected no such argument without torchmetrics; install torchmetrics"
            )
        self._defaults: dict[str, State] = {}

    def add_state(self, name: str, default: State, dist_reduce_fx: str | None = None) -> None:
        """A state that is summed over batches (a tensor), or collected (a list)."""
        self._defaults[name] = default
        setattr(self, name, copy.copy(default))

    def reset(self) -> None:
        for name, default in self._defaults.items():
            value = getattr(self, name)
            setattr(self, name, [] if isinstance(default, list) else torch.zeros_like(value))

    update: Callable[..., None]
    compute: Callable[[], Tensor]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        before = {name: getattr(self, name) for name in self._defaults}
        self.reset()
        self.update(*args, **kwargs)
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


if TYPE_CHECKING:
    Metric = PlainMetric
else:
    try:
        from torchmetrics import Metric
    except (ImportError, RuntimeError):  # the latter beside a torchvision built for another torch
        Metric = PlainMetric

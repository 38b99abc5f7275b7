"""torchmetrics.Metric where it can be imported, else what the metrics need of it."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing_extensions import Self

State = Tensor | list[Tensor]


class PlainMetric(nn.Module):
    """`update`, `compute`, `reset`, and a forward that gives a batch's own value and remembers the batch.

    As in torchmetrics only forward makes a graph: `update` runs without. States are not synchronised between processes.
    """

    _computed: Tensor | None = None  # torchmetrics keeps both; here they are made anew
    _forward_cache: Tensor | None = None

    def __init__(self, **kwargs: object) -> None:
        super().__init__()
        if kwargs:
            raise TypeError(
                f"{next(iter(kwargs))}: expected no such argument without torchmetrics; install torchmetrics"
            )
        self._defaults: dict[str, State] = {}
        self._in_forward = False
        self._update_count = 0

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
            setattr(self, name, [] if isinstance(default, list) else default.to(getattr(self, name).device, copy=True))
        self._update_count = 0

    @property
    def update_called(self) -> bool:
        return self._update_count > 0

    update: Callable[..., None]
    compute: Callable[[], Tensor]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        before, count = {name: getattr(self, name) for name in self._defaults}, self._update_count
        self.reset()
        self._in_forward = True
        self.update(*args, **kwargs)
        self._in_forward = False
        value = self.compute()
        self._update_count = count + 1
        with torch.no_grad():
            self._reduce_states(before)
        return value

    def _reduce_states(self, incoming_state: Mapping[str, Any]) -> None:
        """Adds the states of other batches to this metric's."""
        for name, state in incoming_state.items():
            setattr(self, name, state + getattr(self, name))

    def clone(self) -> Self:
        return copy.deepcopy(self)

    def set_dtype(self, dst_type: torch.dtype) -> Self:
        """Moves the network to a dtype."""
        return self.type(dst_type)

    def _apply(self, fn: Any, exclude_state: Collection[str] = ()) -> Any:
        """Leaves its states where they are, all to be excluded."""
        return super()._apply(fn)

    def _plot(self, val: object, ax: object) -> Any:
        raise ModuleNotFoundError("plot: expected torchmetrics, whose plot it is, found none; install torchmetrics")


def _update_without_graph(update: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(update)
    def wrapped(self: PlainMetric, *args: Any, **kwargs: Any) -> None:
        self._update_count += 1
        with torch.set_grad_enabled(self._in_forward and torch.is_grad_enabled()):
            update(self, *args, **kwargs)

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

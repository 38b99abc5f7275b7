"""What the metrics share: one score for each image, averaged, summed or collected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ... import _checks as checks
from ..._settings import ModuleWithSettings
from ...names import Reduction
from .._metric import Metric

if TYPE_CHECKING:
    from typing_extensions import Self


class ScoreMetric(ModuleWithSettings, Metric):
    """A metric that averages, sums or collects one score for each image or pair of images.

    Its states are `sum_scores`, `lost` and `total` for "mean" and "sum", so that no memory grows, and `all_scores` for
    "none". They are fp32 (fp64 for scores in fp64) and a count, whatever dtype the metric is set to, and hold no graph,
    nor does the value of the last batch. `lost` is what rounding took from the sum (Neumaier 1974), so that no error
    grows either, on devices without fp64 as well.
    """

    if TYPE_CHECKING:  # torch.jit.script would read them, and knows no names in strings
        plot_lower_bound: float
        __jit_unused_properties__: tuple[str, ...]
        _reductions_known: tuple[Reduction, ...]
        sum_scores: Tensor
        lost: Tensor
        total: Tensor
        all_scores: list[Tensor]
        never_equal: Tensor

    is_differentiable = True
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0
    __jit_unused_properties__ = (*getattr(Metric, "__jit_unused_properties__", ()), "reduction")

    _reductions_known = checks.REDUCTIONS
    _scored = "images"

    def __init__(self, reduction: Reduction | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._reduction = check_reduction(reduction, self._reductions_known)
        if self._reduction == "none":
            self.add_state("all_scores", [], dist_reduce_fx="cat")
        else:
            for name in ("sum_scores", "lost"):
                self.add_state(name, torch.tensor(0.0, dtype=torch.float32), dist_reduce_fx="sum")
            self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")
        # A MetricCollection merges metrics whose states are equal after a first batch, whatever they are metrics of,
        # and updates only one of them from then on. NaN is equal to nothing.
        self.add_state("never_equal", torch.tensor(torch.nan), dist_reduce_fx="sum")

    @property
    def reduction(self) -> Reduction:
        """How the scores are reduced; "mean" and "sum" may be exchanged at any time."""
        return self._reduction

    @reduction.setter
    def reduction(self, reduction: Reduction | None) -> None:
        reduction = check_reduction(reduction, self._reductions_known)
        if "none" in (reduction, self._reduction) and reduction != self._reduction:
            kept = "every score" if self._reduction == "none" else "only their sum"
            raise AttributeError(
                f"reduction: expected one that a metric made with {self._reduction!r} can give, which keeps {kept}; "
                f"got {reduction!r}; make another metric with it"
            )
        self._reduction = reduction
        self._computed = None

    @torch.jit.unused
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The value of this batch, with a gradient, and `update` with it; a batch refused leaves all as it was."""
        before = {name: list(value) if isinstance(value, list) else value for name, value in vars(self).items()}
        try:
            value = super().forward(*args, **kwargs)
        except BaseException:
            vars(self).update(before)  # it begins with a reset
            raise
        if self._forward_cache is not None:
            self._forward_cache = self._forward_cache.detach()
        if "all_scores" in self._defaults:
            self.all_scores = [scores.detach() for scores in self.all_scores]
        return value

    def compute(self) -> Tensor:
        """The reduction of the scores of all batches since the last reset; the mean of batches of 0 is 0.

        Raises:
            RuntimeError: There was no `update`.
        """
        is_list = "all_scores" in self._defaults
        # After a gathering the other processes may have scores that this one has not.
        if not self.update_called and not (len(self.all_scores) if is_list else self.total):
            raise RuntimeError(f"compute: expected {self._scored} first, got none since the last reset; call update")
        if is_list:
            # A list before and a tensor after the scores of several processes were gathered.
            scores = self.all_scores if isinstance(self.all_scores, Tensor) else torch.cat(self.all_scores)
            return scores.squeeze()  # as torchmetrics gives a single score
        # What is lost of infinity is no number.
        found = self.sum_scores + torch.where(self.lost.isfinite(), self.lost, 0)
        return found / self.total.clamp(min=1) if self.reduction == "mean" else found

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """torchmetrics' plot of one value or several (None: that of `compute`) into matplotlib's axes: figure, axes."""
        return self._plot(val, ax)

    def _scores(self, *images: Tensor) -> Tensor:  # -> (N), fp32 or fp64
        """The score of each image or pair of them; raises where they are not as described."""
        raise NotImplementedError

    def _is_double(self) -> bool:
        """Whether scores are fp64."""
        return False

    def _take_in(self, *images: Tensor) -> None:
        try:
            scores = self._scores(*images)
        except BaseException:
            self._update_count -= 1  # counted before: a metric whose every batch was refused has nothing to compute
            raise
        if "all_scores" in self._defaults:
            self.all_scores.append(scores)
            return
        batch = scores.sum()
        with torch.no_grad():
            self.lost = self.lost + _lost(self.sum_scores, batch)
        self.sum_scores = self.sum_scores + batch
        self.total = self.total + len(scores)

    def _reduce_states(self, incoming_state: Mapping[str, Any]) -> None:
        """Adds the states of other batches to this metric's, for a forward or torchmetrics' `merge_state`."""
        lost = _lost(incoming_state["sum_scores"], self.sum_scores) if "sum_scores" in incoming_state else None
        super()._reduce_states(incoming_state)
        if lost is not None:
            self.lost = self.lost + lost

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        if "all_scores" in self._defaults and not self.all_scores:  # in the dtype of the other processes'
            dtype = torch.float64 if self._is_double() else torch.float32
            self.all_scores = [torch.empty(0, dtype=dtype, device=self.never_equal.device)]
        super()._sync_dist(*args, **kwargs)  # type: ignore[misc]

    def _apply(self, fn: Callable[[Tensor], Tensor], *_: Any, **__: Any) -> Self:
        """Moves the network as asked, and states to its device alone: in bf16 a count stops at 256."""
        super()._apply(fn, exclude_state=tuple(self._defaults))
        wide = torch.float64 if self._is_double() else torch.float32
        if "sum_scores" in self._defaults:
            found = self.sum_scores
            self.sum_scores = found.to(wide)
            self.lost = (self.lost + (found - self.sum_scores)).to(wide)
        device = fn(self.never_equal).device
        for name, default in self._defaults.items():
            value = getattr(self, name)
            if isinstance(default, list):
                setattr(self, name, [scores.to(device) for scores in value])
            else:
                self._defaults[name] = default.to(device, wide if default.is_floating_point() else None)
                setattr(self, name, value.to(device))
        self._computed = None
        return self


def _lost(total: Tensor, added: Tensor) -> Tensor:  # () each
    """What rounding takes from total + added, to the last bit (Knuth's TwoSum)."""
    found = total + added
    part = found - total
    return (total - (found - part)) + (added - part)


def check_reduction(reduction: Reduction | None, choices: Sequence[Reduction] = checks.REDUCTIONS) -> Reduction:
    reduction = "none" if reduction is None else reduction
    check_choice("reduction", reduction, choices)
    return reduction


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """As `_checks.check_choice`, with the words of torchmetrics, which tests of projects wait for."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"{name}: expected one of {', '.join(map(repr, choices))}; got {value!r} (Argument `{name}` must be one of "
            "these)"
        )


def check_flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False, got {value!r}")
    return value

"""States of compat.torchmetrics: which metrics they belong to, their precision, their dtype, and several processes."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from metrics import pictures, trunk_weights
from peers import peer
from process_group import on_processes
from torch import Tensor

package = peer("torchmetrics")  # before ours looks for it, see test_compat_torchmetrics
ours = importlib.import_module("perceptual_ops.compat.torchmetrics")

REDUCTIONS = ["mean", "sum", "none"]


def lpips(net_type: str = "alex", **settings: Any) -> Any:
    settings = {"normalize": True, "weights": trunk_weights({"vgg": "vgg16"}.get(net_type, net_type))} | settings
    return ours.LearnedPerceptualImagePatchSimilarity(net_type, **settings)


def dists(**settings: Any) -> Any:
    return ours.DeepImageStructureAndTextureSimilarity(weights=trunk_weights("vgg16"), **settings)


class Given(ours.TotalVariation):
    """A metric whose scores are given."""

    def _scores(self, scores: Tensor) -> Tensor:  # (N) -> (N)
        return scores


# ---- company in a MetricCollection ----

COMPANIES: dict[str, Callable[[], dict[str, Any]]] = {
    "LPIPS and DISTS": lambda: {"a": lpips(), "b": dists()},
    "LPIPS of two networks": lambda: {"a": lpips(), "b": lpips("squeeze")},
    "LPIPS mean and sum": lambda: {"a": lpips(), "b": lpips(reduction="sum")},
    "one by one": lambda: {"a": lpips(reduction="none"), "b": lpips("squeeze", reduction="none")},
}


@pytest.mark.parametrize("name", COMPANIES)
def test_each_of_a_collection_reports_its_own_number(name: str) -> None:
    together, alone = package.MetricCollection(COMPANIES[name]()), COMPANIES[name]()
    x, y = pictures(2), pictures(2, seed=1)
    for metric in (together, *alone.values()):
        metric.update(y, y)  # identical, so that the states of all are equal
        metric.update(x, y)
    found = together.compute()
    for key, metric in alone.items():
        torch.testing.assert_close(found[key], metric.compute())


def test_a_copy_that_was_changed_is_a_metric_of_its_own() -> None:
    first = lpips(check_range=False)
    second = first.clone()
    second.normalize = False
    together = package.MetricCollection({"first": first, "second": second})
    x, y = pictures(1), pictures(1, seed=1)
    together.update(y, y)
    together.update(x, y)
    found = together.compute()
    assert not torch.isclose(found["first"], found["second"], rtol=1e-3)


def test_metrics_of_torchmetrics_with_the_same_states_are_not_merged() -> None:
    class Theirs(package.Metric):
        def __init__(self) -> None:
            super().__init__()
            for name, state in first.metric_state.items():
                self.add_state(name, state.clone(), dist_reduce_fx="sum")

        def update(self, preds: Tensor, target: Tensor) -> None:
            pass

        def compute(self) -> Tensor:
            return self.total

    first = dists()
    together = package.MetricCollection({"ours": first, "theirs": Theirs()})
    together.update(torch.empty(0, 3, 40, 40), torch.empty(0, 3, 40, 40))
    together.update(pictures(2), pictures(2, seed=1))
    assert together.compute()["theirs"] == 0


# ---- precision ----


@pytest.mark.parametrize("call", ["update", "forward"])
def test_a_mean_over_ten_million_images(call: str) -> None:
    """In the end one more score is less than what fp32 can add to the sum."""
    metric, batch, score = (
        Given("mean"),
        torch.rand(9999, generator=torch.Generator().manual_seed(0)),
        torch.tensor(0.1),
    )
    for scores in 1000 * [batch] + 1000 * [score.view(1)]:
        (metric.update if call == "update" else metric)(scores)
    assert metric.total == 10**7
    assert metric.total.dtype == torch.int64
    expected = 1000 * (batch.double().sum() + score.double()) / 10**7
    assert metric.compute().item() == pytest.approx(expected.item(), rel=1e-6)


def test_metrics_are_merged_without_loss() -> None:
    first, second = Given("sum"), Given("sum")
    first.update(torch.tensor([2.0**24]))
    for _ in range(3):
        second.update(torch.tensor([1.0]))
        first.merge_state(second)  # 1 + 2 + 3
        assert first.sum_scores.dtype == torch.float32
    assert first.sum_scores.double() + first.lost.double() == 2**24 + 6


def test_infinite_and_broken_scores_are_reported() -> None:
    for scores, expected in (([1.0, torch.inf], torch.inf), ([1.0, torch.nan], torch.nan)):
        metric = Given("mean")
        for score in scores:
            metric.update(torch.tensor([score]))
        torch.testing.assert_close(metric.compute(), torch.tensor(expected), equal_nan=True)


# ---- dtypes ----


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("change", ["set_dtype", "to", "half of a model"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_states_keep_their_dtypes(dtype: torch.dtype, change: str, reduction: str) -> None:
    metric, kept = Given(reduction), torch.tensor([1.001, 1.002])
    metric.update(kept)
    metric.compute()
    for _ in range(2):  # the metric, and what it is after a reset
        if change == "set_dtype":
            metric.set_dtype(dtype)
        elif change == "to":
            metric.to(dtype)
        else:
            torch.nn.ModuleList([metric]).to(dtype)
        for _ in range(300):
            metric.update(torch.tensor([1.001]))
        everything = torch.cat([kept, torch.full((300,), 1.001)])
        expected = everything if reduction == "none" else getattr(everything, reduction)()
        torch.testing.assert_close(metric.compute(), expected, rtol=2e-7, atol=0)
        metric.reset()
        metric.update(kept)


def test_scores_in_double() -> None:
    metric = lpips().set_dtype(torch.float64)
    assert metric.sum_scores.dtype == metric.lost.dtype == torch.float64
    assert metric.total.dtype == torch.int64
    x, y = (images.double() for images in (pictures(2), pictures(2, seed=1)))
    metric.update(x, y)
    metric.reset()
    assert metric(x, y).dtype == metric.compute().dtype == torch.float64
    assert copy.deepcopy(metric).compute() == metric.compute()
    exact = metric.compute()
    metric.set_dtype(torch.float32)
    assert metric.sum_scores.dtype == metric.lost.dtype == torch.float32
    assert metric.sum_scores.double() + metric.lost.double() == pytest.approx(2 * exact.item(), rel=1e-13)


def test_batches_that_are_all_refused_leave_nothing_to_compute() -> None:
    metric = lpips()
    with pytest.raises(ValueError, match="img1: expected values in"):
        metric.update(pictures(1) + 1, pictures(1))
    assert not metric.update_called
    with (
        pytest.warns(UserWarning, match="was called before the ``update``"),  # torchmetrics' own
        pytest.raises(RuntimeError, match="compute: expected image pairs first, got none"),
    ):
        metric.compute()


# ---- several processes ----


def _process(rank: int, batches: Sequence[Tensor], folder: Path) -> None:
    """A process with its batches: update, forward, then compute over all processes, a metric for each reduction."""
    for reduction, others in product(REDUCTIONS, (0, 1)):
        metric = lpips(reduction=reduction).set_dtype(torch.bfloat16)
        for i, batch in enumerate((batches[others:], batches[:others])[rank]):
            (metric.update if i % 2 else metric)(batch, 1 - batch)
        for _ in range(2):  # a gathering leaves each process what it had
            found = metric.compute()
            metric._computed = None
        torch.save(found, folder / f"{reduction}.{others}.{rank}")


def test_two_processes(tmp_path: Path) -> None:
    """This one and another, which has no batch at all, or one."""
    batches = [pictures(2, 40, 40), pictures(1, 40, 40, seed=1)]
    on_processes(2, tmp_path / "store", _process, batches, tmp_path)
    for reduction, others, rank in product(REDUCTIONS, (0, 1), (0, 1)):
        alone = lpips(reduction=reduction).set_dtype(torch.bfloat16)
        for batch in (*batches[others:], *batches[:others]):
            alone.update(batch, 1 - batch)
        torch.testing.assert_close(torch.load(tmp_path / f"{reduction}.{others}.{rank}"), alone.compute())

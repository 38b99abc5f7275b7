"""compat.torchmetrics where torchmetrics is not installed, or cannot be imported."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import assert_equal, assert_frozen, pairs, peer, run, state
from torch import Tensor

peer("torchmetrics")  # before ours looks for it: beside a torchvision built for another torch it cannot be imported
torchmetrics = importlib.import_module("perceptual_ops.compat.torchmetrics")

NAME = "perceptual_ops.compat.torchmetrics"
# All that stands on Metric; `ranges`, an operator, does not.
NAMES = ["perceptual_ops.compat._metric", NAME] + [
    f"{NAME}.{module}" for module in ("scores", "networks", "lpips", "dists", "variation")
]


def case(name: str) -> tuple[Tensor, Tensor]:
    x, y = pairs()[name]
    return 2 * x - 1, 2 * y - 1


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """compat.torchmetrics is imported anew."""
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(NAME, None)  # restores the package's attribute, too


@pytest.fixture
def plain(anew: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """compat.torchmetrics as it is where torchmetrics is not installed."""
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return importlib.import_module(NAME)


def loss(module: Any, reduction: str = "mean") -> Any:
    return module.LearnedPerceptualImagePatchSimilarity(reduction=reduction, weights=state("alexnet"))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_without_torchmetrics(plain: Any, reduction: str) -> None:
    ours, full = (loss(module, reduction) for module in (plain, torchmetrics))
    assert "PlainMetric" in [base.__name__ for base in type(ours).__mro__]
    for metric in (ours, full):
        metric.update(*case("batch"))
    torch.testing.assert_close(run(ours, *case("photograph")), run(full, *case("photograph")))
    torch.testing.assert_close(ours.compute(), full.compute())
    assert not ours.compute().requires_grad
    ours.double().update(*[images.double() for images in case("flat")])
    torch.testing.assert_close(ours.compute(), ours.to("cpu").compute())
    ours.reset()
    full.reset()
    for metric in (ours.float(), full):
        metric.update(*case("flat"))
    torch.testing.assert_close(ours.compute(), full.compute())
    assert_frozen(ours)
    with pytest.raises(TypeError, match="sync_on_compute: expected no such argument without torchmetrics"):
        plain.LearnedPerceptualImagePatchSimilarity(sync_on_compute=False, weights="random")


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_update_keeps_no_graph(plain: Any, reduction: str) -> None:
    metric = loss(plain, reduction)
    x, y = case("batch")
    x = x.clone().requires_grad_()
    metric.update(x, y)
    assert metric(x, y).requires_grad
    metric.update(x, y)
    kept = metric.all_scores if reduction == "none" else [metric.sum_scores]
    assert not any(scores.requires_grad for scores in kept)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_batch_that_is_refused_changes_nothing(plain: Any, reduction: str) -> None:
    metric = loss(plain, reduction)
    x, y = case("batch")
    metric.update(x, y)
    expected = metric.compute()
    with pytest.raises(ValueError, match="img1: expected values in"):
        metric(x - 3, y)
    assert_equal(metric.compute(), expected)
    metric.update(x.clone().requires_grad_(), y)
    assert not metric.compute().requires_grad


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nothing_to_compute(plain: Any, reduction: str) -> None:
    metric = loss(plain, reduction)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="compute: expected image pairs first, got none"):
            metric.compute()
        metric.update(torch.empty(0, 3, 36, 36), torch.empty(0, 3, 36, 36))
        assert not metric.compute().any()
        metric.reset()


@pytest.mark.parametrize(
    "fault",
    [
        "raise RuntimeError('operator torchvision::nms does not exist')",
        "import a_package_that_is_missing",
        "raise AttributeError('a numpy of another age')",
    ],
)
@pytest.mark.usefixtures("anew")
def test_torchmetrics_that_cannot_be_imported(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchmetrics.py").write_text(fault)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchmetrics"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.warns(RuntimeWarning, match="not synchronised between processes and fit into no MetricCollection"):
        module = importlib.import_module(NAME)
    assert "PlainMetric" in [base.__name__ for base in module.TotalVariation.__mro__]


def test_the_library_looks_for_no_torchmetrics() -> None:
    script = "import sys, perceptual_ops; sys.exit('torchmetrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error::RuntimeWarning", "-c", script], check=False).returncode == 0

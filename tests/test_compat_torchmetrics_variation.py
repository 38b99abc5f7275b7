"""compat.torchmetrics's total variation against torchmetrics."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from metrics import pictures
from peers import assert_same_arguments, peer

peer("torchmetrics")  # before ours looks for it, see test_compat_torchmetrics
theirs = importlib.import_module("torchmetrics.image.tv")
their_function = importlib.import_module("torchmetrics.functional.image.tv").total_variation
ours = importlib.import_module("perceptual_ops.compat.torchmetrics")

REDUCTIONS = ["mean", "sum", "none", None]


def test_arguments() -> None:
    assert_same_arguments(ours.TotalVariation, theirs.TotalVariation)
    assert_same_arguments(ours.TotalVariation.update, theirs.TotalVariation.update)
    assert_same_arguments(ours.total_variation, their_function)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_values_and_gradients(reduction: str | None) -> None:
    batches = [pictures(3)[:, :2], pictures(1, seed=1)[:, :2]]
    metrics = [module.TotalVariation(reduction) for module in (ours, theirs)]
    for batch in batches:
        found = []
        for call in (*metrics, lambda x: ours.total_variation(x, reduction), lambda x: their_function(x, reduction)):
            x = batch.clone().requires_grad_()
            value = call(x)
            found.append((value, torch.autograd.grad(value.sum(), x)[0]))
        for one, other in (found[:2], found[2:]):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=0)
    torch.testing.assert_close(*(metric.compute() for metric in metrics), rtol=1e-5, atol=0)


def test_half_does_not_overflow() -> None:
    images = 100 * pictures(2, 300, 300).half()
    assert not their_function(images).isfinite()
    torch.testing.assert_close(ours.total_variation(images), their_function(images.float()), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(3, 4, 4), ValueError, r"img: expected shape \(N, C, H, W\), got \(3, 4, 4\)"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), TypeError, "img: expected dtype"),
        (None, TypeError, "img: expected a tensor, got NoneType"),
    ],
)
def test_images_that_are_refused(images: Any, error: type[Exception], message: str) -> None:
    for call in (ours.TotalVariation(), ours.TotalVariation().update, ours.total_variation):
        with pytest.raises(error, match=message):
            call(images)


def test_wrong_arguments() -> None:
    for call in (ours.TotalVariation, lambda reduction: ours.total_variation(pictures(1), reduction)):
        with pytest.raises(ValueError, match="reduction: expected one of 'mean', 'sum', 'none'; got 'max'"):
            call("max")
    with pytest.raises(ValueError, match="backend: expected one of"):
        ours.TotalVariation(backend="cuda")

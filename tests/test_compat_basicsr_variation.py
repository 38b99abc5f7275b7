"""compat.basicsr's WeightedTVLoss against BasicSR's formula written out."""

from __future__ import annotations

import pytest
import torch
from peers import pairs, run
from torch import Tensor

from perceptual_ops import ops
from perceptual_ops.compat.basicsr import WeightedTVLoss


def basicsr_variation(pred: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    def reduced(distances: Tensor, weight: Tensor | None) -> Tensor:
        if weight is None:
            return getattr(distances, reduction)()
        if reduction == "sum":
            return (distances * weight).sum()
        return (distances * weight).sum() / weight.expand_as(distances).sum()

    down = (pred[:, :, 1:] - pred[:, :, :-1]).abs(), None if weight is None else weight[:, :, :-1]
    across = (pred[:, :, :, 1:] - pred[:, :, :, :-1]).abs(), None if weight is None else weight[:, :, :, :-1]
    return reduced(*down) + reduced(*across)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_total_variation(channels: int | None, reduction: str) -> None:
    x, _ = pairs()["batch"]
    weight = None
    if channels:
        weight = torch.rand((2, channels, *x.shape[2:]), generator=torch.Generator().manual_seed(1))
    loss = WeightedTVLoss(0.3, reduction)
    ours = run(loss, x, x, lambda loss, x, _: loss(x, weight))
    exact = run(loss, x.double(), x, lambda _, x, __: 0.3 * basicsr_variation(x, weight, reduction))
    torch.testing.assert_close(ours[0], exact[0].float())
    torch.testing.assert_close(ours[1], exact[1], check_dtype=False)
    torch.testing.assert_close(loss(x.half()), loss(x.half().float()))  # summed in fp32
    if reduction == "sum" and not channels:
        torch.testing.assert_close(ours[0], 0.3 * ops.total_variation(x, "l1", "sum"))
    loss.reduction, loss.loss_weight = "mean", 2.0
    torch.testing.assert_close(loss(x, weight), 2 * basicsr_variation(x, weight, "mean"))


def test_total_variation_of_wrong_arguments() -> None:
    x, _ = pairs()["batch"]
    with pytest.raises(ValueError, match=r"reduction: expected one of 'mean', 'sum'; got 'none'"):
        WeightedTVLoss(reduction="none")
    with pytest.raises(ValueError, match="pred: expected shape"):
        WeightedTVLoss()(x[0])


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (3.0, "a tensor, got float"),
        (torch.ones(3, 36, 40), r"got \(3, 36, 40\)"),
        (torch.ones(2, 2, 36, 40), r"got \(2, 2, 36, 40\)"),
        (torch.ones(2, 1, 35, 40), r"got \(2, 1, 35, 40\)"),
        (torch.ones(2, 3, 36, 1), r"got \(2, 3, 36, 1\)"),
        (torch.ones(1, 1, 36, 40), r"got \(1, 1, 36, 40\); weight.expand\(N, -1, -1, -1\) weighs each image alike"),
        (torch.ones(2, 1, 36, 40, device="meta"), "a tensor on cpu, where pred is; got meta"),
    ],
    ids=["a number", "no batch", "channels", "height", "width", "one for all", "device"],
)
def test_weights_that_are_refused(weight: object, message: str) -> None:
    with pytest.raises(
        (TypeError, ValueError), match=f"weight: expected .*{message.removeprefix('weight: expected ')}"
    ):
        WeightedTVLoss()(pairs()["batch"][0], weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bool, torch.int64])
def test_weights_of_other_dtypes(dtype: torch.dtype) -> None:
    """Summed in fp32: these are more than fp16 can hold."""
    x = torch.rand(2, 3, 200, 200, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(WeightedTVLoss()(x, torch.ones_like(x, dtype=dtype)), WeightedTVLoss()(x))

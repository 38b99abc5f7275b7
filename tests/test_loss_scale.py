"""loss_scale, against its formula in plain PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from perceptual_ops import activation_reference as oracle

library = torch.ops.perceptual_ops
ROOM = 2.0**15


def numbers(device: str, seed: int, batch: int = 300) -> Tensor:
    """Of many sizes, (N); more than a block of them."""
    drawn = torch.randn(batch, generator=torch.Generator().manual_seed(seed))
    return (10 * drawn).exp2().to(device)


def arguments(device: str) -> list[tuple[Any, ...]]:
    scale = numbers("cpu", 1).log2().round().exp2().to(device)
    bound, first, second = (numbers(device, seed) for seed in (2, 3, 4))
    grown, grows = torch.tensor(17.0, device=device), torch.tensor(230.0, device=device)
    return [
        (None, None, None, 1.0, [first], None, ROOM),
        (None, None, None, 1.0, [first, second], grows, ROOM),
        (scale, bound, grown, 4.0, [first, second] * 4, grows, ROOM),
        (scale, bound, None, 1.0, [], None, 3.0),
    ]


def test_as_the_formula_says(native: str, device: str) -> None:
    for given, on_cpu in zip(arguments(device), arguments("cpu"), strict=True):
        scale, factor, bound, zeros = library.loss_scale(*given)
        assert zeros.eq(0).all()
        expected = oracle.loss_scale(*on_cpu).to(device)
        assert torch.equal(scale, expected[0]) and torch.equal(factor, expected[1])
        torch.testing.assert_close(bound, expected[2])
        assert (torch.frexp(scale).mantissa == 0.5).all()
        enlarged = bound if given[5] is None else bound * given[5]
        within = (scale > 2.0**-60) & (scale < 2.0**60)
        assert within.sum() > 200
        assert (enlarged[within] <= given[6]).all() and (2 * enlarged[within] > given[6]).all()


def test_no_gradient_and_gradients_that_are_not_finite(native: str, device: str) -> None:
    """Any scale will do, and the next one is found from it."""
    bound = torch.tensor([0.0, torch.inf, torch.nan, 1e-38, 3e38], device=device)
    scale, factor, *_ = library.loss_scale(None, bound, None, 1.0, [], None, ROOM)
    assert scale.tolist() == [2.0**60, 2.0**-60, 2.0**60, 2.0**60, 2.0**-60] and torch.equal(factor, scale)
    again, factor, *_ = library.loss_scale(scale, torch.full_like(bound, 2.0), None, 1.0, [], None, ROOM)
    assert torch.equal(again, (scale * 2.0**14).clamp(max=2.0**60)) and torch.equal(factor, again / scale)


def test_empty_batch(native: str, device: str) -> None:
    empty = torch.ones(0, device=device)
    assert library.loss_scale(empty, empty, None, 1.0, [empty], None, ROOM).shape == (4, 0)


@pytest.mark.usefixtures("library")
def test_refusals(native: str, device: str) -> None:
    two = torch.ones(2, device=device)

    def refuses(sentence: str, *given: Any) -> None:
        with pytest.raises(RuntimeError, match=sentence):
            library.loss_scale(*given, ROOM)

    refuses("bound: expected one where there are no taps", two, None, None, 1.0, [], None)
    refuses(r"taps: expected \(2\)", two, two, None, 1.0, [two[:1]], None)
    refuses(r"scale: expected \(2\)", two[:1], two, None, 1.0, [], None)
    refuses("taps: expected at most 8, got 9", None, None, None, 1.0, [two] * 9, None)
    refuses("bound: expected float32", None, two.double(), None, 1.0, [], None)
    refuses("grown: expected one number", None, two, two, 1.0, [], None)
    refuses("grows: expected one number", None, two, None, 1.0, [], two)

"""Losses of one's own in chunks: what they keep, and how often they run."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from placement import placed
from small_losses import adversarial, patch_gan, rand
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import perceptual_ops as po
from perceptual_ops.engine.chunked_op import function_of

pytestmark = pytest.mark.usefixtures("on_device")


def test_a_backward_is_a_multiplication() -> None:
    calls = []

    def fn(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x.square().flatten(1).sum(1)

    last, x = placed(nn.Conv2d(3, 3, 1).double()), rand(5, 3, 6, 6)
    output = last(x)
    loss = po.chunked(fn, chunk_size=2)(output)
    kept = [torch.autograd.grad(loss.sum(), last.weight, retain_graph=True)[0] for _ in range(2)]
    torch.autograd.grad((3 * loss).sum(), output, retain_graph=True)[0].zero_()
    loss.sum().backward()
    assert calls == [2, 2, 1]
    assert torch.equal(kept[0], kept[1]) and torch.equal(kept[0], last.weight.grad)


def test_memory_does_not_grow_with_the_batch() -> None:
    """Of what autograd saves within fn, no more than one chunk's is alive at a time."""
    network = patch_gan()

    def peak(batch: int, chunked: bool) -> int:
        alive, most = [0], [0]

        class Saved:
            def __init__(self, tensor: Tensor) -> None:
                self.tensor = tensor
                alive[0] += tensor.nbytes
                most[0] = max(most[0], alive[0])
                weakref.finalize(self, self.drop, alive, tensor.nbytes)

            @staticmethod
            def drop(alive: list[int], size: int) -> None:
                alive[0] -= size

        def fn(x: Tensor) -> Tensor:
            with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
                return network(x).mean((1, 2, 3))

        loss = po.chunked(fn, chunk_size=2) if chunked else fn
        loss(rand(batch, 3, 16, 16).requires_grad_()).sum().backward()
        return most[0]

    peaks = [peak(batch, True) for batch in (2, 4, 10)]
    assert peaks[0] > 0 and peaks == [peaks[0]] * 3
    assert peak(10, False) > 3 * peaks[0]  # by ordinary autograd; weights are in both


def test_nothing_but_the_gradient_is_kept() -> None:
    sizes = []
    x = rand(4, 3, 16, 16).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: sizes.append(x.untyped_storage().nbytes()) or x, lambda x: x
    ):
        loss = po.chunked(adversarial, chunk_size=1)(x)
    assert sizes == [x.nbytes]
    loss.sum().backward()


def test_nothing_leaks() -> None:
    network = patch_gan()
    loss = po.chunked(lambda x: network(x).mean((1, 2, 3)), chunk_size=2)
    key, gone = loss._key, weakref.ref(loss.fn)
    loss(rand(3, 3, 16, 16).requires_grad_()).sum().backward()
    del loss
    gc.collect()
    assert gone() is None
    with pytest.raises(RuntimeError, match="this process holds it no more"):
        function_of(key)


def test_activation_checkpointing_runs_it_twice() -> None:
    calls = []

    def fn(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x.square().sum(1)

    loss, x = po.chunked(fn, chunk_size=1), rand(3, 4).requires_grad_()
    checkpoint(lambda x: loss(x.sin()).sum(), x, use_reentrant=False).backward()
    assert len(calls) == 6
    torch.testing.assert_close(x.grad, (2 * x).sin().detach())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_gradient_is_made_where_none_is_wanted(mode: Callable) -> None:
    recorded, weight = [], placed(torch.ones(4, dtype=torch.float64))

    def fn(x: Tensor, y: Tensor) -> Tensor:
        products = x * y * weight
        recorded.append(products.requires_grad)
        return products.sum(1)

    loss, x, y = po.chunked(fn, chunk_size=2), rand(3, 4).requires_grad_(), rand(3, 4).requires_grad_()
    with mode():
        values = loss(x, y)
        torch.testing.assert_close(loss(x + 0, y + 0), values)
    torch.testing.assert_close(loss(x.detach(), y.detach()), values)
    weight.requires_grad_()
    with mode():
        loss(x, y)
    assert not values.requires_grad and not any(recorded)

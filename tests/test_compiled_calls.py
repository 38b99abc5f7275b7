"""Every way of calling a loss under torch.compile(fullgraph=True): the value and the gradient of the eager call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from perceptual import images, make
from torch import Tensor, nn

import perceptual_ops as po

SIZE = 36  # of which AlexNet leaves a pixel
X, Y, GREY = images(2, SIZE), images(2, SIZE, seed=1), images(2, SIZE, seed=3)[:, :1]
STYLE, STYLES = images(1, 30, seed=2), images(2, 30, seed=2)


def kept() -> po.PerceptualLoss:
    criterion = make()
    criterion.set_content(Y)
    criterion.set_style([STYLE, STYLE.flip(3)], weights=[1, 2])
    return criterion


def total(result: Tensor | tuple) -> Tensor:
    loss, terms = result
    return loss + sum(terms.values() if isinstance(terms, dict) else terms)


def encoder() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))


CALLS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor]]] = {
    "kept targets": (kept, lambda loss, x: loss(x)),
    "style at the call": (make, lambda loss, x: loss(x, Y, STYLE)),
    "one style each": (make, lambda loss, x: loss(x, Y, style=STYLES)),
    "a list of styles": (make, lambda loss, x: loss(x, Y, [STYLE, STYLE.flip(3)])),
    "style alone": (lambda: make(content_layers=None), lambda loss, x: loss(x, style=(STYLE,))),
    "one target for all": (make, lambda loss, x: loss(x, Y[:1], STYLE)),
    "terms": (lambda: make(tv_weight=0.1), lambda loss, x: total(loss(x, Y, STYLE, return_terms=True))),
    "one a sample": (lambda: make(reduction="none"), lambda loss, x: loss(x, Y, STYLE)),
    "grey": (make, lambda loss, x: loss(x, GREY, STYLE)),
    "bf16": (lambda: make(compute_dtype=torch.bfloat16), lambda loss, x: loss(x, Y, STYLE)),
    "autograd": (lambda: make(engine="autograd"), lambda loss, x: loss(x, Y, STYLE)),
    "autograd in chunks": (lambda: make(engine="autograd", chunk_size=1), lambda loss, x: loss(x, Y, [STYLE])),
    "reference": (lambda: make(backend="reference"), lambda loss, x: loss(x, Y, STYLE)),
    "own module": (
        lambda: po.PerceptualLoss(encoder(), content_layers=["1"], style_layers=["2"]),
        lambda loss, x: loss(x, Y, STYLE),
    ),
    "lpips": (lambda: po.LPIPS("alex", weights="random"), lambda loss, x: loss(x, Y)),
    "lpips, a map": (lambda: po.LPIPS("alex", weights="random", spatial=True), lambda loss, x: loss(x, Y)),
    "lpips, layers": (
        lambda: po.LPIPS("alex", weights="random", reduction="sum"),
        lambda loss, x: total(loss(x, GREY, return_layers=True)),
    ),
    "lpips, one target": (lambda: po.LPIPS("alex", weights="random"), lambda loss, x: loss(x, Y[:1])),
    "lpips, squeeze": (lambda: po.LPIPS("squeeze", weights="random"), lambda loss, x: loss(x, Y)),
    "dists": (lambda: po.DISTS(weights="random", input_range=(-1, 1)), lambda loss, x: loss(x, Y[:1])),
    "dists, autograd": (lambda: po.DISTS(weights="random", engine="autograd"), lambda loss, x: loss(x, GREY)),
}

ANY_AND_ONE_SIZE = ("kept targets", "autograd in chunks", "own module", "lpips, a map", "dists")  # one of each kind


@pytest.mark.parametrize("name", CALLS)
def test_compiled_call(name: str) -> None:
    """For any size; and for that of the first call, where all that is traced are the plain numbers of eager calls."""
    make_loss, call = CALLS[name]
    loss = make_loss()

    def value_and_gradient(run: Callable[[nn.Module, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        output = X.clone().requires_grad_()
        value = run(loss, output)
        return value.detach(), torch.autograd.grad(value.sum(), output)[0]

    expected = value_and_gradient(call)
    for dynamic in (False, True) if name in ANY_AND_ONE_SIZE else (True,):
        torch._dynamo.reset()
        compiled = torch.compile(call, fullgraph=True, dynamic=dynamic, backend="eager")
        torch.testing.assert_close(value_and_gradient(compiled), expected, msg=f"dynamic={dynamic}")

"""The rival implementations of a case: the compiled operators, the reference in eager torch, the reference compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import perceptual_ops
from perceptual_ops import reference

from .roofline import Cost

Rival = Callable[[], list[Tensor]]

OPERATORS = (
    "gram_matrix", "channel_statistics", "style_loss", "feature_loss", "total_variation", "lpips_distance",
    "dists_distance",
)  # fmt: skip
OURS = SimpleNamespace(**{name: partial(getattr(perceptual_ops, name), backend="native") for name in OPERATORS})
VARIANTS = ("ours", "eager", "compiled")

# Largest deviation from the eager reference over its largest value, by the dtype of the result. fp32: another order of
# summation; a plain tensor-core accumulator already fails. 16 bits: two roundings of the largest value.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-6, torch.float16: 2**-9}


@dataclass(frozen=True)
class Problem:
    """A case on concrete tensors.

    Attributes:
        evaluate: (operators, leaves, *constants) -> outputs, where operators are `OURS` or the reference.
        leaves: The tensors whose gradient is taken.
        constants: Further arguments.
        upstream: One gradient for each output; none for a forward alone.
        cost: Compulsory traffic and FLOP of one call.
    """

    evaluate: Callable[..., list[Tensor]]
    leaves: list[Tensor]
    cost: Cost
    constants: tuple[Any, ...] = ()
    upstream: list[Tensor] | None = None

    def run(self, forward: Callable[..., list[Tensor]]) -> list[Tensor]:
        """Outputs, then gradients by the leaves, by a forward with its operators bound."""
        outputs = forward(self.leaves, *self.constants)
        if self.upstream is None:
            return outputs
        return [*outputs, *torch.autograd.grad(outputs, self.leaves, self.upstream)]


def calls(problem: Problem, variants: Iterable[str]) -> dict[str, Rival]:
    """The rivals by name: the compiled operators, the reference in eager torch, and the same under torch.compile."""
    eager = partial(problem.evaluate, reference)
    forwards: dict[str, Callable[..., list[Tensor]]] = {
        "ours": partial(problem.evaluate, OURS),
        "eager": eager,
        "compiled": torch.compile(eager, dynamic=False, fullgraph=True),
    }
    return {name: partial(problem.run, forwards[name]) for name in variants}


def deviation(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value; NaN, which no tolerance admits, where that is 0."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return float("inf")
    largest = expected.abs().max().float()
    return ((actual.float() - expected.float()).abs().max() / largest).item()


def verify(problem: Problem, rivals: Mapping[str, Rival]) -> dict[str, str]:
    """What is wrong with results, measured against the eager reference, by the name of the rival."""
    expected: list[Tensor] = []
    reference_call = partial(problem.run, partial(problem.evaluate, reference))
    attempts: dict[str, Rival] = {"reference": reference_call, **rivals}
    wrong: dict[str, str] = {}
    for name, call in attempts.items():
        try:
            results = call()
        except RuntimeError as error:  # torch.compile's errors and out-of-memory are RuntimeErrors too
            wrong[name] = f"{name} raised {type(error).__name__}: {str(error).splitlines()[0]}"
            if name == "reference":
                break
            continue
        expected = expected or results
        for index, (actual, wanted) in enumerate(zip(results, expected, strict=True)):
            found, allowed = deviation(actual, wanted), TOLERANCE[wanted.dtype]
            if not found <= allowed:
                wrong[name] = f"{name}: result {index} is {found:.1e} off the reference, {allowed:.1e} is allowed"
                break
    return wrong

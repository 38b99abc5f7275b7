"""The whole loss as data: batches of images, and the rival ways to its value and image gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from perceptual_ops import PerceptualLoss
from perceptual_ops.losses.chunks import default_chunk_size

from .plain import PlainLoss
from .timing import MIN_ROUNDS, Call

FP32, BF16 = torch.float32, torch.bfloat16

# Largest error of the image gradient (2-norm, over that of the reference's) and of the loss, by the dtype of the trunk.
# Rounding moves maxima and signs, and with them whole entries of the gradient: in fp32 shares up to 5e-3 were
# seen between plain runs that differ in memory format alone, in bf16 0.08, ours and torch.compile's alike.
TOLERANCE = {FP32: (1e-2, 1e-5), BF16: (0.2, 0.01)}


@dataclass(frozen=True)
class Variant:
    """A way to the loss.

    Attributes:
        build: () -> a module with `set_style` and (output, target) -> loss.
        dtype: Of the trunk's arithmetic.
        layout: Memory format of the images it is given.
        compiled: Whether torch.compile makes it one graph, under autocast to `dtype`.
        chunk: What PerceptualLoss is given as its chunk_size; 0 for others, which know no chunks.
    """

    build: Callable[[], Any]
    dtype: torch.dtype = FP32
    layout: torch.memory_format = torch.contiguous_format
    compiled: bool = False
    chunk: int | None = 0


def ours(dtype: torch.dtype, chunk: int | None = None) -> Variant:
    build = partial(PerceptualLoss.preset, "johnson-style", weights="random", compute_dtype=dtype, chunk_size=chunk)
    return Variant(build, dtype, chunk=chunk)


NHWC = torch.channels_last
VARIANTS = {
    "eager": Variant(partial(PlainLoss, "random")),
    "eager NHWC": Variant(partial(PlainLoss, "random", NHWC), layout=NHWC),
    "compiled bf16": Variant(partial(PlainLoss, "random", NHWC), BF16, NHWC, compiled=True),
    "ours fp32": ours(FP32),
    "ours bf16": ours(BF16),
    "ours fp32, chunk 1": ours(FP32, 1),
    "ours bf16, chunk 1": ours(BF16, 1),
    "ours fp32, chunk 32": ours(FP32, 32),
}
RIVALS = ("eager", "eager NHWC", "compiled bf16")
EVERY = tuple(name for name in VARIANTS if name != "ours fp32, chunk 32")


@dataclass(frozen=True)
class Case:
    """A batch of square images.

    Attributes:
        names: Of the variants; the first is the reference of the others.
        rounds: How often each is timed; 0: only its memory is wanted.
    """

    batch: int
    size: int
    names: tuple[str, ...] = EVERY
    rounds: int = MIN_ROUNDS

    @property
    def name(self) -> str:
        return f"loss {self.batch}x{self.size}x{self.size}"

    @property
    def megapixels(self) -> float:
        return self.batch * self.size**2 / 1e6

    def chunk(self, name: str, device_type: str) -> int:
        """How many samples a variant sends through the trunk at a time."""
        variant = VARIANTS[name]
        if variant.chunk == 0:
            return self.batch
        default = default_chunk_size(self.size, self.size, variant.dtype, device_type)
        return min(variant.chunk or default, self.batch)

    def distinct(self, device_type: str) -> tuple[str, ...]:
        """The variants without those that are another's call under a second name: chunk 1 where that is the default."""
        first: dict[tuple[object, ...], str] = {}
        for name in self.names:
            variant = VARIANTS[name]
            same = (name,) if variant.chunk == 0 else (variant.dtype, self.chunk(name, device_type))
            first.setdefault(same, name)
        return tuple(first.values())

    def call(self, name: str, device: torch.device) -> Call:
        """() -> (loss, image gradient), with a fresh content target and a style target that is kept."""
        variant = VARIANTS[name]
        generator = torch.Generator(device).manual_seed(0)
        output, target, style = (
            torch.rand((batch, 3, self.size, self.size), device=device, generator=generator)
            .contiguous(memory_format=variant.layout)
            for batch in (self.batch, self.batch, 1)
        )  # fmt: skip
        output.requires_grad_()
        module = variant.build().to(device)
        module.set_style(style)
        loss = compiled(module, variant.dtype) if variant.compiled else module

        def value_and_gradient() -> tuple[Tensor, Tensor]:
            value = loss(output, target)
            return value.detach(), *torch.autograd.grad(value, output)

        return value_and_gradient


def compiled(module: torch.nn.Module, dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(output.device.type, dtype):
            return module(output, target)

    return torch.compile(loss, fullgraph=True, dynamic=False)


OURS = ("ours fp32", "ours bf16")
CASES = {
    "cpu": (
        Case(4, 256),
        Case(16, 256),
        Case(1, 1024),
        Case(1, 256, OURS),
        Case(1, 512, OURS),
        Case(1, 2048, OURS, rounds=3),
        Case(32, 256, ("ours fp32, chunk 1", "ours fp32, chunk 32"), rounds=0),
    ),
    "cuda": (
        Case(8, 512),
        Case(8, 256),
        Case(4, 256),
        Case(16, 256),
        Case(1, 256),
        Case(1, 512, OURS),
        Case(1, 1024),
        Case(1, 2048, OURS),
        Case(32, 256, ("ours fp32, chunk 1", "ours fp32, chunk 32"), rounds=0),
    ),
}


def error(actual: Tensor, expected: Tensor) -> float:
    """The 2-norm of the difference over that of the expected; infinite for another shape or dtype."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return float("inf")
    return (torch.linalg.vector_norm(actual - expected) / torch.linalg.vector_norm(expected)).item()


def verify(calls: dict[str, Call]) -> str:
    """What is wrong with the results of some variants, measured against the first; empty where they agree."""
    expected: Any = None
    for name, call in calls.items():
        try:
            found: Any = call()
        except RuntimeError as failure:  # torch.compile's errors and out-of-memory are RuntimeErrors too
            return f"{name} raised {type(failure).__name__}: {str(failure).splitlines()[0]}"
        expected = expected or found
        for_gradient, for_loss = TOLERANCE[VARIANTS[name].dtype]
        for what, index, allowed in (("loss", 0, for_loss), ("gradient", 1, for_gradient)):
            share = error(found[index], expected[index])
            if not share <= allowed:
                return f"{name}: {what} is {share:.1e} off the reference, {allowed:.1e} is allowed"
    return ""

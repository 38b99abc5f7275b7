"""The whole loss as data: batches of images, and the rival ways to its value and image gradient."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from perceptual_ops import PerceptualLoss

from .plain import PlainLoss
from .timing import Call
from .whole_case import BF16, FP16, FP32, NHWC, Case, Variant, compiled, value_and_gradient


def ours(dtype: torch.dtype, chunk: int | None = None, graphs: bool = False) -> Variant:
    settings = {"weights": "random", "compute_dtype": dtype, "chunk_size": chunk, "cuda_graphs": graphs}
    return Variant(partial(PerceptualLoss.preset, "johnson-style", **settings), dtype, chunk=chunk, graphs=graphs)


VARIANTS = {
    "eager": Variant(partial(PlainLoss, "random")),
    "eager NHWC": Variant(partial(PlainLoss, "random", NHWC), layout=NHWC),
    "compiled bf16": Variant(partial(PlainLoss, "random", NHWC), BF16, NHWC, compiled=True),
    "ours fp32": ours(FP32),
    "ours bf16": ours(BF16),
    "ours fp16": ours(FP16),
    "ours fp32, chunk 1": ours(FP32, 1),
    "ours bf16, chunk 1": ours(BF16, 1),
    "ours fp32, chunk 32": ours(FP32, 32),
    "ours bf16, graphs": ours(BF16, graphs=True),
    "ours fp16, graphs": ours(FP16, graphs=True),
}
RIVALS = ("eager", "eager NHWC", "compiled bf16")
GRAPHS = ("ours bf16, graphs", "ours fp16, graphs")  # where launches take longer than what they launch
ON_GPU = tuple(name for name in VARIANTS if name not in ("ours fp32, chunk 32", *GRAPHS))
EVERY = tuple(name for name in ON_GPU if name != "ours fp16")  # few CPUs multiply fp16

# Rounding moves maxima and signs, and with them whole entries of the gradient: in fp32 shares up to 5e-3 were seen
# between plain runs that differ in memory format alone, in bf16 0.08, ours and torch.compile's alike.
TOLERANCE = {FP32: (1e-5, 1e-2), BF16: (0.01, 0.2), FP16: (0.002, 0.1)}


@dataclass(frozen=True)
class LossCase(Case):
    """A batch of images, with a fresh content target and a style target that is kept."""

    names: tuple[str, ...] = EVERY

    variants = VARIANTS
    tolerance = TOLERANCE
    peer = "eager"

    @property
    def name(self) -> str:
        return f"loss {self.size}"

    def call(self, name: str, device: torch.device) -> Call:
        variant = VARIANTS[name]
        output, target, style = self.images((self.batch, self.batch, 1), variant.layout, device)
        module = variant.build().to(device)
        module.set_style(style)
        loss = compiled(module, variant.dtype) if variant.compiled else module
        return value_and_gradient(loss, output, target)


def square(batch: int, side: int, *arguments, **keywords) -> LossCase:
    return LossCase(batch, side, side, *arguments, **keywords)


OURS = ("ours fp32", "ours bf16")
CASES = {
    "cpu": (
        square(4, 256),
        square(16, 256),
        square(1, 1024),
        square(1, 256, OURS),
        square(1, 512, OURS),
        square(1, 2048, OURS, rounds=3),
        square(32, 256, ("ours fp32, chunk 1", "ours fp32, chunk 32"), rounds=0),
    ),
    "cuda": (
        square(8, 512, ON_GPU),
        square(8, 256, ON_GPU),
        square(1, 256, ON_GPU + GRAPHS),
        square(4, 256, ON_GPU + GRAPHS),
        square(16, 256, ON_GPU),
        square(1, 512, OURS),
        square(1, 1024, ON_GPU),
        square(1, 2048, OURS),
        square(32, 256, ("ours fp32, chunk 1", "ours fp32, chunk 32"), rounds=0),
    ),
}

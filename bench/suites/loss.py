"""The whole loss, PerceptualLoss.preset("johnson-style"): its value and image gradient by rival ways."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from perceptual_ops import PerceptualLoss

from .. import peers
from ..case import BF16, FP16, FP32, NHWC, ImageCase, Variant, named, of_size, value_and_gradient
from ..plain import PlainLoss
from ..timing import Call
from . import Suite


def ours(dtype: torch.dtype, chunk: int | None = None, graphs: bool = False) -> Variant:
    settings = {"weights": "random", "compute_dtype": dtype, "chunk_size": chunk, "cuda_graphs": graphs}
    who = f"ours, chunk {chunk}" if chunk else "ours, graphs" if graphs else "ours"
    return Variant(who, partial(PerceptualLoss.preset, "johnson-style", **settings), dtype, chunk=chunk, graphs=graphs)


TILES = Variant("ours, tiles", partial(ours(FP32).build, tile_size="auto"), chunk=None, tiles=True)
eager, nhwc = partial(PlainLoss, "random"), partial(PlainLoss, "random", NHWC)
VARIANTS = named(
    Variant("eager", eager),
    Variant("channels_last", nhwc, layout=NHWC),
    Variant("compiled", nhwc, layout=NHWC, compiled=True),
    Variant("piq", peers.PiqStyle, package="piq"),
    ours(FP32),
    ours(FP32, 1),
    ours(FP32, 32),
    Variant("channels_last", nhwc, BF16, NHWC),
    Variant("compiled", nhwc, BF16, NHWC, compiled=True),
    ours(BF16),
    ours(BF16, 1),
    ours(BF16, graphs=True),
    ours(FP16),
    ours(FP16, graphs=True),
    TILES,
)
GRAPHS = ("ours, graphs bf16", "ours, graphs fp16")  # where launches take longer than what they launch
ON_GPU = tuple(name for name in VARIANTS if name not in ("ours, chunk 32 fp32", TILES.name, *GRAPHS))
EVERY = tuple(name for name in ON_GPU if name != "ours fp16")  # few CPUs multiply fp16
OURS = ("ours fp32", "ours bf16")
SCALED = ("eager fp32", "compiled bf16", *OURS)
ENDS = ("ours, chunk 1 fp32", "ours, chunk 32 fp32")
# Rounding moves maxima and signs, and with them whole entries of the gradient: in fp32 shares up to 5e-3 were seen
# between plain runs that differ in memory format alone, in bf16 0.08, ours and torch.compile's alike.
TOLERANCE = {FP32: (1e-5, 1e-2), BF16: (0.01, 0.2), FP16: (0.002, 0.1)}


@dataclass(frozen=True)
class LossCase(ImageCase):
    """A batch of images, with a fresh content target and a style target that is kept."""

    variants = VARIANTS
    tolerance = TOLERANCE

    def call(self, name: str, device: torch.device) -> Call:
        variant = VARIANTS[name]
        output, target, style = self.images((self.batch, self.batch, 1), variant.layout, device)
        module = variant.build().to(device)
        module.set_style(style)
        return value_and_gradient(variant.applied(module), output, target)


def of(size: str, names: tuple[str, ...] = EVERY, **settings) -> LossCase:
    return LossCase(names, **of_size(size), **settings)


CASES = {
    "cpu": (
        of("4x128x128", quick=True),
        of("4x256x256"),
        of("16x256x256", rounds=3),
        of("1x1024x1024", rounds=3),
        of("1x64x64"),
        of("1x256x256", SCALED),
        of("1x512x512", SCALED),
        of("1x2048x2048", OURS, rounds=3),
        of("32x256x256", ENDS, rounds=0),
    ),
    "cuda": (
        of("8x512x512", ON_GPU, quick=True),
        of("8x256x256", ON_GPU),
        of("1x256x256", ON_GPU + GRAPHS, quick=True),
        of("4x256x256", ON_GPU + GRAPHS, quick=True),
        of("16x256x256", ON_GPU),
        of("1x512x512", OURS),
        of("1x1024x1024", ON_GPU),
        of("1x2048x2048", OURS),
        of("32x256x256", ENDS, rounds=0),
    ),
}
SUITE = Suite("loss", "Johnson's loss", CASES)

"""LPIPS of clips: ours takes them as they are, a few frames at a time; the package is given the frames as images."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import peers
from ..case import FP32, ImageCase, Variant, named, of_size, value_and_gradient
from ..timing import Call
from . import Suite
from .metrics import own_metric

VARIANTS = named(
    Variant("lpips", lambda: peers.lpips("lpips-vgg"), package="lpips"),
    Variant("autograd", lambda: own_metric("lpips-vgg", engine="autograd", backend="reference")),
    Variant("ours", lambda: own_metric("lpips-vgg"), chunk=None),
)
OF_FRAMES = "lpips"  # knows no clips
TOLERANCE = {FP32: (1e-5, 1e-2)}


@dataclass(frozen=True)
class ClipCase(ImageCase):
    """A batch of clips (N, 3, T, H, W).

    Attributes:
        frames: T.
    """

    frames: int = field(kw_only=True)

    variants = VARIANTS
    tolerance = TOLERANCE

    @property
    def name(self) -> str:
        return f"lpips-vgg {self.batch}x{self.frames}x{self.height}x{self.width}"

    def chunk(self, name: str, device_type: str) -> int | None:
        return self.batch * self.frames if self.variant(name).chunk == 0 else super().chunk(name, device_type)

    def call(self, name: str, device: torch.device) -> Call:
        variant = self.variant(name)
        shape = (2, self.batch, 3, self.frames, self.height, self.width)
        output, target = 2 * torch.rand(shape, generator=torch.Generator(device).manual_seed(0), device=device) - 1
        module = variant.build().to(device)

        def distance(output: Tensor, target: Tensor) -> Tensor:
            if variant.who == OF_FRAMES:
                output, target = (clips.transpose(1, 2).flatten(0, 1) for clips in (output, target))
            return module(output, target).mean()

        return value_and_gradient(distance, output, target)


CASES = (
    ClipCase(tuple(VARIANTS), frames=8, quick=True, **of_size("1x128x128")),
    ClipCase(tuple(VARIANTS), frames=16, rounds=3, **of_size("1x256x256")),
)
SUITE = Suite("clips", "LPIPS of clips", {"cpu": CASES, "cuda": CASES})

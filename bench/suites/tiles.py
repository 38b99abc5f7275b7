"""Large images, whole and in tiles: value and gradient of one image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from perceptual_ops import LPIPS, PerceptualLoss

from .. import peers
from ..case import FP32, ImageCase, Variant, named, of_size
from ..timing import Call
from . import Suite

STYLE = {"style_layers": ("relu1_2", "relu2_2", "relu3_3", "relu4_3"), "style_weight": 1e5}
LOSSES: dict[str, Callable[..., PerceptualLoss | LPIPS]] = {
    "style": partial(PerceptualLoss, "vgg16", weights="random", content_layers=None, **STYLE),
    "style + content": partial(PerceptualLoss, "vgg16", weights="random", content_layers=["relu2_2"], **STYLE),
    "content": partial(PerceptualLoss, "vgg16", weights="random"),
    "lpips-vgg": partial(LPIPS, "vgg16", weights="random"),
    "lpips-alex": partial(LPIPS, "alex", weights="random"),
}


def own_loss(loss: str, **settings) -> PerceptualLoss | LPIPS:
    """With a style of 256 x 256 pixels, where the loss has one."""
    made = LOSSES[loss](**settings)
    if isinstance(made, PerceptualLoss) and made.style_layers:
        made.set_style(torch.rand((1, 3, 256, 256), generator=torch.Generator().manual_seed(1)))
    return made


VARIANTS = named(
    Variant("lpips", peers.lpips, package="lpips"),
    Variant("ours", own_loss, chunk=None),
    Variant("ours, tiles of 512", partial(own_loss, tile_size=512), chunk=None),
    Variant("ours, tiles", partial(own_loss, tile_size="auto"), chunk=None),
)


@lru_cache(maxsize=1)  # the warm-up and the call are of one module
def built(loss: str, name: str, device: torch.device) -> Any:
    return VARIANTS[name].build(loss).to(device)


TOLERANCE = {FP32: (1e-5, 1e-2)}


@dataclass(frozen=True)
class TileCase(ImageCase):
    """One image, by a loss that goes whole up to 4 megapixels unless it is told otherwise."""

    loss: str = field(kw_only=True)

    variants = VARIANTS
    tolerance = TOLERANCE

    @property
    def name(self) -> str:
        return f"{self.loss} {self.size}"

    def available(self, device_type: str) -> tuple[str, ...]:
        """The package has LPIPS alone; tiles of two sizes are two calls."""
        has_peer = self.loss in peers.NETWORKS and not peers.missing("lpips")
        return tuple(name for name in self.names if has_peer or not self.variant(name).package)

    def chunk(self, name: str, device_type: str) -> int | None:
        return 1

    def call(self, name: str, device: torch.device) -> Call:
        draw = torch.Generator(device).manual_seed(0)
        output, target = torch.rand((2, 1, 3, self.height, self.width), generator=draw, device=device)
        output.requires_grad_()
        loss = built(self.loss, name, device)
        given = () if isinstance(loss, PerceptualLoss) and not loss.content_layers else (target,)

        def call() -> tuple[Tensor, Tensor]:
            value = loss(output, *given).sum()
            return value.detach(), *torch.autograd.grad(value, output)

        return call

    def warm_up(self, name: str, device: torch.device) -> Call | None:
        return replace(self, height=64, width=64).call(name, device)


def of(loss: str, side: int, **settings) -> TileCase:
    names = tuple(VARIANTS) if side <= 1024 else ("ours fp32", "ours, tiles fp32")
    if side > 2048:  # ours goes in tiles anyway
        names = names[1:]
    return TileCase(names, loss=loss, **of_size(f"1x{side}x{side}"), **settings)


CASES = (
    of("lpips-vgg", 1024, quick=True, rounds=1),
    *(of(loss, 1024, rounds=3) for loss in LOSSES if loss != "lpips-vgg"),
    *(of(loss, side, rounds=1) for side in (2048, 4096, 8192) for loss in LOSSES),
)
SUITE = Suite("tiles", "Large images in tiles", {"cpu": CASES, "cuda": CASES})

"""Losses of images and clips in parts on several ranks: what is compared, and what each rank does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import perceptual_ops as po
from perceptual_ops.engine.pair import IMAGE
from perceptual_ops.losses.metric import MetricLoss
from perceptual_ops.networks.recognition import recognized

Loss = po.PerceptualLoss | MetricLoss

TAPS = {"1": 8, "4": 8, "7": 6}  # layers of `tiny`, and their channels
TILE = 16


@cache
def tiny() -> nn.Sequential:
    """Of stride 4, whose windows reach 1, 4 and 10 pixels."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(),
        ).double()  # fmt: skip


def images(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def perceptual(**settings: Any) -> Loss:
    own = {"content_layers": ["4"], "style_layers": ["1", "7"], "style_weight": 10.0, "tv_weight": 0.1}
    own |= {"tile_size": TILE, **settings}
    loss = po.PerceptualLoss(tiny(), mean=[0.2], std=[0.8], **own).double()
    if loss.style_layers:
        loss.set_style(images(3, 1, 3, 20, 21))
    return loss


def of_regions(**settings: Any) -> Loss:
    """The second empty, but in the last rows."""
    loss = perceptual(reduction="none", **settings)
    below = torch.zeros(1, 1, 8, 5)
    below[:, :, 7] = 1.0
    loss.set_style([images(3, 1, 3, 20, 21), images(4, 1, 3, 25, 21)], masks=[images(5, 1, 1, 30, 27), below])
    return loss


class TinyMetric(MetricLoss):
    """LPIPS or DISTS over the tiny network."""

    def __init__(self, metric: str, **settings: Any) -> None:
        chain = recognized(tiny(), list(TAPS))
        assert chain is not None
        is_dists = metric == "dists"
        layers = {IMAGE: 3, **TAPS} if is_dists else TAPS
        numbers = [images(i, channels) for i, channels in enumerate([*layers.values()] * (2 if is_dists else 1))]
        own = {"input_range": (0.0, 1.0), "reduction": "none", "tile_size": TILE, **settings}
        super().__init__(chain, list(layers), numbers, [0.2] * 3, [0.8] * 3, **own)
        self.metric = metric
        self.double()

    def _range_of_input(self) -> tuple[float, float]:
        return 0.0, 1.0

    def _eps_settings(self) -> tuple[float, bool]:
        return (1e-10, False) if self.metric == "lpips" else (0.0, False)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        factor, shift = self.range_map()
        distance = self._lean_distance(output * factor + shift, target * factor + shift)
        return po._checks.reduce(distance, self.reduction)


def with_content() -> Loss:
    """Whose content is kept, of all samples."""
    loss = perceptual(reduction="sum", content_layers=["4", "7"])
    loss.set_content(images(2, 1, 3, 33, 27))
    return loss


def alex() -> Loss:
    return po.LPIPS("alexnet", weights="random", reduction="mean", tile_size=64).double()


@dataclass(frozen=True)
class Case:
    """A loss of images in bands of so many rows, one for each of the first ranks."""

    make: Callable[[], Loss]
    bands: Sequence[int]
    width: int = 27
    samples: int = 1
    channels: int = 3
    targets: int | None = None  # as many as samples
    settings: dict[str, Any] = field(default_factory=dict)

    def pair(self) -> list[Tensor]:
        """The whole output, and the target if there is one; leaves."""
        counts = self.samples, self.samples if self.targets is None else self.targets
        shape = self.channels, sum(self.bands), self.width
        return [images(seed, count, *shape).requires_grad_() for seed, count in enumerate(counts, start=1) if count]

    def rows(self, rank: int) -> slice:
        first = sum(self.bands[:rank])
        return slice(first, first + self.bands[rank])


CASES = {
    "all terms": Case(lambda: perceptual(reduction="none"), (21, 32, 3, 25), samples=2),
    "two ranks": Case(lambda: perceptual(reduction="mean"), (9, 40), samples=2),
    "thin bands": Case(lambda: perceptual(reduction="sum"), (1, 2, 41, 1), samples=2),
    "one has all": Case(perceptual, (0, 23, 0, 0)),
    "a total variation beside content": Case(lambda: perceptual(style_layers=None, tv_weight=2.0), (5, 6, 7, 8)),
    "style alone, of unit features": Case(
        lambda: perceptual(content_layers=None, tv_weight=0.0, normalize_features="channel"), (18, 17), targets=0
    ),
    "regions": Case(of_regions, (21, 0, 12, 8), samples=2),
    "kept content": Case(with_content, (4, 10, 18, 1), samples=2, targets=0),
    "grey, and one target for all": Case(perceptual, (15, 16), samples=3, channels=1, targets=1),
    "means, deviations and Grams": Case(lambda: perceptual(style_statistics="both"), (0, 23, 9, 0), samples=2),
    "means and deviations": Case(lambda: perceptual(style_statistics="mean_std", style_distance="sse"), (11, 30)),
    "cosine": Case(lambda: perceptual(content_distance="cosine", style_layers=None), (11, 30)),
    "squares added up": Case(lambda: perceptual(content_distance="sse", style_distance="l1"), (14, 15, 16, 17)),
    "LPIPS": Case(lambda: TinyMetric("lpips"), (13, 2, 30, 1), samples=3, settings={"chunk_size": 2}),
    "DISTS": Case(lambda: TinyMetric("dists", reduction="sum"), (3, 30, 0, 20), samples=2),
    "DISTS of another range": Case(lambda: TinyMetric("dists", input_range=(-1.0, 2.0)), (33, 6)),
    "AlexNet": Case(alex, (41, 7, 38, 1), width=35),
}


def upstream(value: Tensor) -> Tensor:
    """Numbers other than 1, some below 0."""
    return torch.linspace(2.5, -1.5, value.numel(), dtype=value.dtype).view(value.shape)


def results(loss: Callable[..., Tensor], leaves: Sequence[Tensor]) -> list[Tensor]:
    """The value, and the gradients by the leaves."""
    value = loss(*leaves)
    gradients = torch.autograd.grad(value, leaves, upstream(value))
    return [value.detach(), *gradients]


def with_settings(case: Case, dtype: torch.dtype, settings: dict[str, Any]) -> Loss:
    loss = case.make().to(dtype)
    for name, value in {**case.settings, **settings}.items():
        setattr(loss, name, value)
    return loss


def of_one(case: Case, dtype: torch.dtype = torch.float64, **settings: Any) -> list[Tensor]:
    """In one process, whole."""
    loss = with_settings(case, dtype, {**settings, "tile_size": None})
    return results(loss, [x.detach().to(dtype).requires_grad_() for x in case.pair()])


def of_rank(case: Case, rank: int, group: Any, dtype: torch.dtype = torch.float64, **settings: Any) -> list[Tensor]:
    """What a rank gets, of its part."""
    loss = with_settings(case, dtype, settings)
    parts = [x.detach()[:, :, case.rows(rank)].to(dtype).requires_grad_() for x in case.pair()]
    return results(po.distributed.sharded(loss, group), parts)


def of_all(found: Any) -> list[Any]:
    """What every rank has found, by rank."""
    everyones: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, found)
    return everyones

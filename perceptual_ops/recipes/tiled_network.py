"""A trained network over a large picture in tiles: but for rounding, what it makes of the whole, in the memory of one.

Instance normalisation takes the mean and the variance of a map over the whole picture. They are gathered over all
tiles, for one normalisation after another, as each changes what the next sees: a network with k of them runs up to the
first, up to the second ... and at last to its end, in k + 1 passes over the picture.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import widest
from .model_file import SMALLEST
from .reach import Reach, reach_of

Progress = Callable[[int, int], None]


class TiledNetwork:
    """A network that runs in tiles.

    Args:
        network: Images (N, 3, H, W) -> (N, 3, scale H, scale W), in evaluation mode; a copy is taken.
        scale: How many times larger its results are.
        multiple: Of pixels that the sides of its images have to be.

    Attributes:
        least: Pixels that the side of a tile has at least.

    Raises:
        ValueError: It cannot run in tiles; the message speaks of "it".
    """

    def __init__(self, network: nn.Module, scale: int, multiple: int) -> None:
        self._scale = scale
        self._rows, self._columns = _reach(network, multiple)
        if {self._rows.rates[-1], self._columns.rates[-1]} != {Fraction(scale)}:
            raise ValueError(f"it does not enlarge {scale} times everywhere")
        self._normalizations = _Normalizations()
        self._network = _normalized_by(self._normalizations, network)
        reaches = self._rows, self._columns
        self.least: int = max(SMALLEST, *(pixels for x in reaches for pixels in (x.unit, x.before, x.after)))

    def __call__(self, images: Tensor, side: int, progress: Progress | None = None) -> Tensor:
        """Images (N, 3, H, W) -> (N, 3, scale H, scale W).

        Args:
            side: Of a tile, about, before what it reads of its neighbours; at least `least`.
            progress: Called after each tile with how much work is done, and of how much.
        """
        height, width = images.shape[2:]
        tiles = [*itertools.product(_spans(height, side, self._rows), _spans(width, side, self._columns))]
        result = images.new_empty(*images.shape[:2], self._scale * height, self._scale * width)
        self._normalizations.known, done = [], 0
        passes = [*zip(self._rows.rates, self._columns.rates, strict=True)]
        for layers, (down, across) in enumerate(passes, start=1):  # a pass takes about as long as it has layers
            statistics = _Statistics()
            for rows, columns in tiles:
                x = self._run(images[..., rows.image, columns.image])
                own = x[..., rows.part(down, x.shape[2]), columns.part(across, x.shape[3])]
                if len(self._normalizations.known) < len(passes) - 1:
                    statistics.add(own)
                else:
                    result[..., rows.whole(self._scale), columns.whole(self._scale)] = own
                done += layers
                if progress is not None:
                    progress(done, len(tiles) * len(passes) * (len(passes) + 1) // 2)
            self._normalizations.known.append(statistics)
        return result

    def _run(self, images: Tensor) -> Tensor:
        """The result of a tile, or what the first normalisation sees whose statistics are not known yet."""
        self._normalizations.calls = 0
        try:
            result: Tensor = self._network(images.clone())  # into which a network may write
            return result
        except _NotKnown as reached:
            return reached.x


@dataclass(frozen=True)
class _Span:
    """One side of a tile: the pixels that it reads, and those of them that are its own; whether these end the image."""

    image: slice
    own: slice
    is_last: bool

    def part(self, rate: Fraction, length: int) -> slice:
        """Where its own part lies in a map of the tile, of so many pixels."""
        begin = (self.own.start - self.image.start) * rate
        return slice(int(begin), length if self.is_last else int(begin + (self.own.stop - self.own.start) * rate))

    def whole(self, scale: int) -> slice:
        """Where that lies in the result of the whole image."""
        return slice(self.own.start * scale, self.own.stop * scale)


def _spans(length: int, side: int, reach: Reach) -> list[_Span]:
    step = max(1, round(side / reach.unit)) * reach.unit
    starts = [*range(0, max(1, length - max(step // 2, SMALLEST)), step)]  # what is left goes to the last
    stops = [*starts[1:], length]
    return [
        _Span(slice(max(0, start - reach.before), min(length, stop + reach.after)), slice(start, stop), stop == length)
        for start, stop in zip(starts, stops, strict=True)
    ]


def _reach(network: nn.Module, multiple: int) -> tuple[Reach, Reach]:
    """That of what each normalisation sees, and of the result."""
    normalizations = _Normalizations(seen=[])
    probed = _normalized_by(normalizations, network).cpu().float()

    @torch.no_grad()
    def maps_of(images: Tensor) -> list[Tensor]:
        normalizations.calls, normalizations.seen = 0, []
        result = probed(images.clone())
        return [*normalizations.seen, result]

    return reach_of(maps_of, multiple)


class _NotKnown(Exception):
    def __init__(self, x: Tensor) -> None:
        self.x = x


@dataclass
class _Statistics:
    """The mean and the variance (N, C, 1, 1) of a map that comes in parts, fp64."""

    count: int = 0
    mean: Any = 0.0
    squares: Any = 0.0  # of what is left of the values without their mean, summed up

    def add(self, x: Tensor) -> _Statistics:  # (N, C, h, w)
        """Chan, Golub and LeVeque 1983, "Algorithms for Computing the Sample Variance"."""
        variance, mean = torch.var_mean(x.to(widest(x.device)), (2, 3), correction=0, keepdim=True)
        count = x.shape[2] * x.shape[3]
        share, off = count / (self.count + count), mean - self.mean
        self.squares = self.squares + variance * count + off.square() * (self.count * share)
        self.mean, self.count = self.mean + off * share, self.count + count
        return self

    @property
    def variance(self) -> Tensor:
        variance: Tensor = self.squares / self.count
        return variance


@dataclass
class _Normalizations:
    """What the instance normalisations of a network know, in the order in which it calls them.

    Attributes:
        known: The statistics of the first calls.
        calls: How many there were in this run.
        seen: What each was given; None where the first call whose statistics are not known ends a run. Else it takes
            those of what it is given.
    """

    known: list[_Statistics] = field(default_factory=list)
    calls: int = 0
    seen: list[Tensor] | None = None

    def statistics(self, x: Tensor) -> _Statistics:
        number, self.calls = self.calls, self.calls + 1
        if self.seen is not None:
            self.seen.append(x.clone())  # what follows may write into it
        if number == len(self.known):
            if self.seen is None:
                raise _NotKnown(x)
            self.known.append(_Statistics().add(x))
        return self.known[number]


class _Normalization(nn.Module):
    """An instance normalisation by statistics that it is given."""

    def __init__(self, own: nn.InstanceNorm2d, by: _Normalizations) -> None:
        super().__init__()
        self.own, self._by = own, by

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, H, W)
        statistics = self._by.statistics(x)
        factor = (statistics.variance + self.own.eps).rsqrt()
        result: Tensor = (x - statistics.mean.to(x.dtype)).mul_(factor.to(x.dtype))
        if self.own.affine:
            result = result.mul_(self.own.weight.view(-1, 1, 1)).add_(self.own.bias.view(-1, 1, 1))
        return result


def _normalized_by(normalizations: _Normalizations, network: nn.Module) -> nn.Module:
    """A copy of a network whose instance normalisations are given their statistics."""
    root = nn.Sequential(copy.deepcopy(network))  # so that the network itself may be one
    for module in [*root.modules()]:
        for name, child in module.named_children():
            if isinstance(child, nn.InstanceNorm2d) and child.running_mean is None:
                setattr(module, name, _Normalization(child, normalizations))
    return root

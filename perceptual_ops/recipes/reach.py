"""How far a network reads around a pixel, measured on small pictures, whatever the network is made of.

Beyond a cut through a picture NaN is put: what is NaN in a map depends on what lies there. And a network that is given
a picture without its first or last rows has to make the same maps without theirs, but for what depends on the cut, or
it cannot run in tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from .._failures import reason
from .model_file import MULTIPLES, side_taken

# Images (1, 3, H, W), fp32 -> maps (1, C, H', W') in an order that is always the same.
MapsOf = Callable[[Tensor], list[Tensor]]

SHORTEST, LONGEST = 64, 512  # pixels of the pictures that are tried
SAME = 1e-4  # of the largest number of a map: rounding is below that, and what is less shows in no picture


@dataclass(frozen=True)
class Reach:
    """Along one side of a picture.

    Attributes:
        unit: Tiles begin and end at multiples of so many pixels.
        before, after: Pixels that a tile needs in front of its own, and behind; multiples of the unit.
        rates: Of each map: how many of its pixels there are for one of the picture.
    """

    unit: int
    before: int
    after: int
    rates: tuple[Fraction, ...]


def reach_of(maps_of: MapsOf, multiple: int) -> tuple[Reach, Reach]:
    """Along the rows' and along the columns' index.

    Args:
        maps_of: What is measured.
        multiple: Of pixels that the sides of its images have to be.

    Raises:
        ValueError: A map depends on the whole picture, or not in the same way everywhere; the message speaks of "it".
    """

    def of_columns(images: Tensor) -> list[Tensor]:
        return [x.mT for x in maps_of(images.mT)]

    return _measured(maps_of, multiple), _measured(of_columns, multiple)


def _measured(maps_of: MapsOf, multiple: int) -> Reach:
    """Along the rows' index."""
    side, width = max(SHORTEST, 4 * multiple), side_taken(1, multiple)
    while side <= LONGEST:
        strip = torch.rand(1, 3, side, width, generator=torch.Generator().manual_seed(0))
        try:
            if found := _of_strip(maps_of, strip, multiple):
                return found
        except (RuntimeError, TypeError) as error:  # it may be the caller's network
            raise ValueError(f"it fails where its reach is measured ({reason(error)})") from error
        side *= 2
    raise ValueError(
        "what it makes of a pixel depends on the whole picture, or on the pixel's place, as with a mean over all pixels"
    )


def _cut(strip: Tensor) -> tuple[Tensor, Tensor]:
    """A strip (1, 3, H, W) with NaN in the half that comes first, and in the other."""
    first, last = strip.clone(), strip.clone()
    first[:, :, : strip.shape[2] // 2] = math.nan
    last[:, :, strip.shape[2] // 2 :] = math.nan
    return first, last


def _rows_with_nan(x: Tensor) -> Tensor:  # (1, C, h, w) -> (h)
    return x.isnan().any(3).any(1)[0]


def _of_strip(maps_of: MapsOf, strip: Tensor, multiple: int) -> Reach | None:
    """By a strip (1, 3, H, W); None where it is too short, or any would be."""
    cut = strip.shape[2] // 2
    maps, first, last = (maps_of(x) for x in (strip, *_cut(strip)))
    of_first, of_last = ([_rows_with_nan(x) for x in found] for found in (first, last))
    if any(rows.all() for rows in (*of_first, *of_last)):
        return None
    for unit in (unit for unit in MULTIPLES if unit % multiple == 0 and cut % unit == 0 and 2 * unit < cut):
        shorter, shortest = maps_of(strip[:, :, unit:]), maps_of(strip[:, :, 2 * unit :])
        lost = [x.shape[2] - y.shape[2] for x, y in zip(maps, shorter, strict=True)]
        if min(lost) < 1 or any(x.shape[2] - y.shape[2] != 2 * n for x, y, n in zip(maps, shortest, lost, strict=True)):
            continue
        rates = tuple(Fraction(rows, unit) for rows in lost)
        ends = [int(rows.nonzero().max()) + 1 if rows.any() else 0 for rows in of_first]
        begins = [int(rows.nonzero().min()) if rows.any() else len(rows) for rows in of_last]
        before = max(end / rate - cut for end, rate in zip(ends, rates, strict=True))
        after = max(cut - begin / rate for begin, rate in zip(begins, rates, strict=True))
        reach = Reach(unit, _rounded_up(before, unit), _rounded_up(after, unit), rates)
        ended = maps_of(strip[:, :, :-unit])
        of_maps = zip(maps, shorter, ended, rates, strict=True)
        if all(_same(x, y, z, rate, reach, strip.shape[2]) for x, y, z, rate in of_maps):
            return reach
    return None


def _rounded_up(pixels: Fraction, unit: int) -> int:
    return max(0, math.ceil(pixels / unit)) * unit


def _same(whole: Tensor, shorter: Tensor, ended: Tensor, rate: Fraction, reach: Reach, side: int) -> bool:
    """Whether a map (1, C, h, w) of a strip is that of the strip without its first rows, and without its last ones."""
    first, last = int((reach.unit + reach.before) * rate), int((side - reach.unit - reach.after) * rate)
    rest = shorter[:, :, int(reach.before * rate) :]
    off = [whole[:, :, first:] - rest, whole[:, :, :last] - ended[:, :, :last]]
    return all(bool((x.abs() <= SAME * whole.abs().max()).all()) for x in off)

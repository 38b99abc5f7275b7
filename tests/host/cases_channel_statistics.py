"""The launches of channel statistics; see cases.py. Oracle: perceptual_ops/reference.py."""

from __future__ import annotations

import torch
from maps import assert_accurate, random_map
from torch import Tensor

from host.cases import Check
from host.cases_dists import Layer, far_from_zero, noise
from host.memory import accumulator, assert_untouched_outside, element, from_numpy, like_view, memory_of
from host.worker import Launch, Outputs
from perceptual_ops import reference


def rooms(dtype: torch.dtype, batch: int, layers: list[Layer], far: bool = False) -> list[Tensor]:
    """The maps, L x (N, C, 1, P), each in memory of its own."""
    maps = [layer.room(batch, layer.gap, dtype) for layer in layers]
    for seed, x in enumerate(maps):
        (far_from_zero if far else noise)(x, torch.empty_like(x), 10 * seed)
    return maps


def samples(x: Tensor) -> tuple[object, int, int]:
    return memory_of(x), x.storage_offset(), x.stride(0)


def arguments(dtype: torch.dtype, layers: list[Layer], maps: list[Tensor]) -> dict[str, object]:
    given = [
        {"layout": layer.layout, "channels": layer.channels, "pixels": layer.pixels, "x": samples(x)}
        for layer, x in zip(layers, maps, strict=True)
    ]
    return {"element": element(dtype), "batch": maps[0].shape[0], "layers": given}


def channel_statistics(dtype: torch.dtype, batch: int, layers: list[Layer], far: bool = False) -> tuple[Launch, Check]:
    maps = rooms(dtype, batch, layers, far)

    def check(outputs: Outputs) -> None:
        for mine, x in zip(outputs, maps, strict=True):
            naive, exact = (
                reference.raw_channel_statistics(x.to(wide)) for wide in (accumulator(dtype), torch.float64)
            )
            found = (from_numpy(mine, tuple(exact.shape)), naive, exact)
            assert_accurate(*found)  # a mean is known to a share of itself or of the deviation
            assert_accurate(*(z[:, 1] for z in found))

    return Launch("dists", "channel_statistics", arguments(dtype, layers, maps)), check


def channel_statistics_of_nan(dtype: torch.dtype, layout: str) -> tuple[Launch, Check]:
    """One number of one sample: both statistics of its channel are NaN, all others numbers."""
    launch, _ = channel_statistics(dtype, 2, [Layer(layout, 3, 80)])
    spoilt = torch.from_numpy(launch.arguments["layers"][0]["x"][0]).view(dtype)
    spoilt[240 + 239] = torch.nan

    def check(outputs: Outputs) -> None:
        bad = from_numpy(outputs[0], (2, 2, 3)).isnan()
        assert bad.sum() == 2 and bad[1, :, 2].all()

    return launch, check


def channel_statistics_backward(
    dtype: torch.dtype, batch: int, layers: list[Layer], adds: bool, far: bool = False
) -> tuple[Launch, Check]:
    """Each map half of the one that its statistics are of. `adds`: to a gradient of every other layer."""
    wide = accumulator(dtype)
    maps = rooms(dtype, batch, layers, far)
    grad = random_map((batch,), wide, "cpu", 3) if adds else None
    launched = arguments(dtype, layers, maps)
    numbers, written, others = [], [], []
    for seed, (layer, x, given) in enumerate(zip(layers, maps, launched["layers"], strict=True)):
        statistics = reference.raw_channel_statistics(x.double()).to(wide)
        slopes = random_map((batch, 2, layer.channels), wide, "cpu", 7 + seed)
        # Some samples of what is added begin between packs.
        other = layer.room(batch, 3 * layer.gap + seed // 2, dtype) if adds and seed % 2 == 0 else None
        if other is not None:
            other.copy_(random_map(tuple(other.shape), dtype, "cpu", 20 + seed))
        dx = layer.room(batch, 0, dtype)
        given |= {
            "statistics": memory_of(statistics),
            "slopes": memory_of(slopes),
            "of_pixels": 2 * layer.pixels,
            "other": None if other is None else samples(other),
            "dx": samples(dx),
        }
        numbers.append((statistics, slopes))
        written.append(dx)
        others.append(other)

    def expected(type_: torch.dtype, i: int) -> Tensor:
        (mean, deviation), (by_mean, by_deviation) = (z.to(type_)[..., None, None].unbind(1) for z in numbers[i])
        upstream = 1 if grad is None else grad.to(type_).view(-1, 1, 1, 1)
        slope = by_mean + by_deviation / deviation * (maps[i].to(type_) - mean)
        found = upstream / (2 * layers[i].pixels) * slope
        return found if others[i] is None else found + others[i].to(type_)

    def check(outputs: Outputs) -> None:
        for i, (mine, dx) in enumerate(zip(outputs, written, strict=True)):
            assert_accurate(like_view(mine, dx), expected(wide, i).to(dtype), expected(torch.float64, i))
            assert_untouched_outside(mine, dx)

    launched["grad"] = None if grad is None else memory_of(grad)
    return Launch("dists", "channel_statistics_backward", launched), check

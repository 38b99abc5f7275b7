"""The launches of DISTS; see cases.py. Oracle: perceptual_ops/reference.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from maps import assert_accurate, random_map
from torch import Tensor

from host.cases import Check
from host.memory import OUTSIDE, accumulator, assert_untouched_outside, element, from_numpy, like_view, memory_of
from host.worker import Launch, Outputs
from perceptual_ops import reference


@dataclass(frozen=True)
class Layer:
    """The maps of one layer.

    Attributes:
        layout: "nchw" or "nhwc".
        channels: C
        pixels: P, laid out as one row.
        targets: Batch of y; 1 where one stands for all.
        gap: Elements between the samples of x.
        before: Elements before the first sample of each map.
    """

    layout: str
    channels: int
    pixels: int
    targets: int = 1
    gap: int = 0
    before: int = 0

    def room(self, batch: int, gap: int, dtype: torch.dtype) -> Tensor:
        """A map (batch, C, 1, P) inside of memory that is not to be touched."""
        size = self.channels * self.pixels
        memory = torch.full((self.before + batch * (size + gap),), OUTSIDE, dtype=dtype)
        samples = memory[self.before :].view(batch, size + gap)[:, :size]
        if self.layout == "nhwc":
            return samples.unflatten(1, (1, self.pixels, self.channels)).permute(0, 3, 1, 2)
        return samples.unflatten(1, (self.channels, 1, self.pixels))


Fill = Callable[[Tensor, Tensor, int], None]


def noise(x: Tensor, y: Tensor, seed: int) -> None:
    """Features of different means and deviations by channel, many of them zero."""
    for map_, of_map in ((x, seed), (y, seed + 1)):
        values = random_map(tuple(map_.shape), torch.float64, "cpu", of_map)
        size = 1 + torch.arange(map_.shape[1], dtype=torch.float64).view(-1, 1, 1) % 5
        map_.copy_((values * size).relu())


def far_from_zero(x: Tensor, y: Tensor, seed: int) -> None:
    """A mean of 1000 and deviations of a hundredth, y nearly the same as x, the first pixel far from all others."""
    values = random_map(tuple(x.shape), torch.float64, "cpu", seed)
    x.copy_(1000 + values / 100)
    y.copy_(x[: y.shape[0]] + random_map(tuple(y.shape), torch.float64, "cpu", seed + 1) / 1000)
    x[:, :, 0, 0] = 990


@dataclass
class Problem:
    """The maps of all layers and what the launches take of them."""

    dtype: torch.dtype
    batch: int
    layers: list[Layer]
    fill: Fill = noise

    def __post_init__(self) -> None:
        wide = accumulator(self.dtype)
        self.xs = [layer.room(self.batch, layer.gap, self.dtype) for layer in self.layers]
        self.ys = [layer.room(layer.targets, 0, self.dtype) for layer in self.layers]
        for seed, (x, y) in enumerate(zip(self.xs, self.ys, strict=True)):
            self.fill(x, y, 10 * seed)
        numbers = [random_map((2, layer.channels), wide, "cpu", 5 + seed) for seed, layer in enumerate(self.layers)]
        self.alpha, self.beta = ([pair[i].abs() for pair in numbers] for i in (0, 1))

    def arguments(self, dxs: list[Tensor] | None = None, dys: list[Tensor] | None = None) -> dict[str, object]:
        def samples(x: Tensor) -> tuple[object, int, int]:
            return memory_of(x), x.storage_offset(), x.stride(0)

        layers = [
            {
                "layout": layer.layout,
                "channels": layer.channels,
                "pixels": layer.pixels,
                "x": samples(self.xs[i]),
                "y": (*samples(self.ys[i])[:2], 0 if layer.targets == 1 else self.ys[i].stride(0)),
                "alpha": memory_of(self.alpha[i]),
                "beta": memory_of(self.beta[i]),
                "dx": samples(dxs[i]) if dxs else None,
                "dy": samples(dys[i]) if dys else None,
            }
            for i, layer in enumerate(self.layers)
        ]
        return {"element": element(self.dtype), "batch": self.batch, "layers": layers}

    def statistics(self, type_: torch.dtype) -> list[Tensor]:  # L x (N, 6, C)
        found = []
        for x, y in zip(self.xs, self.ys, strict=True):
            wide_x, wide_y = (z.to(type_).flatten(2).expand(self.batch, -1, -1) for z in (x, y))
            maps = [wide_x, wide_y, wide_x - wide_y]
            means = [z.mean(2) for z in maps]
            variances = [(z - mean.unsqueeze(2)).square().mean(2) for z, mean in zip(maps, means, strict=True)]
            found.append(torch.stack([*means, *variances], 1))
        return found

    def terms(self, type_: torch.dtype, xs: list[Tensor], ys: list[Tensor]) -> tuple[Tensor, Tensor]:  # (N), (L, N)
        return reference.dists_terms(xs, ys, *([z.to(type_) for z in numbers] for numbers in (self.alpha, self.beta)))

    def values(self, type_: torch.dtype) -> tuple[Tensor, Tensor]:  # (N), (L, N)
        return self.terms(type_, *([z.to(type_) for z in maps] for maps in (self.xs, self.ys)))

    def gradients(self, type_: torch.dtype, grad: Tensor) -> dict[str, list[Tensor]]:
        """By x and by y of each sample, each L x (N, C, 1, P)."""
        xs = [x.to(type_).requires_grad_() for x in self.xs]
        ys = [y.to(type_).expand_as(x).clone().requires_grad_() for x, y in zip(xs, self.ys, strict=True)]
        found = torch.autograd.grad(self.terms(type_, xs, ys)[0], xs + ys, grad.to(type_))
        return {"x": list(found[: len(xs)]), "y": list(found[len(xs) :])}

    def gradients_of(self, type_: torch.dtype, grad: Tensor, statistics: list[Tensor]) -> dict[str, list[Tensor]]:
        """The same by the formula, of given statistics."""
        found: dict[str, list[Tensor]] = {"x": [], "y": []}
        for numbers, *maps, alpha, beta in zip(statistics, self.xs, self.ys, self.alpha, self.beta, strict=True):
            x, y = (z.to(type_) for z in maps)
            mx, my, me, vx, vy, ve = numbers.to(type_)[..., None, None].unbind(1)
            means, variances = mx.square() + my.square() + reference.DISTS_EPS, vx + vy + reference.DISTS_EPS
            of_means, of_structures = (
                grad.to(type_).view(-1, 1, 1, 1) * z.to(type_).view(-1, 1, 1) / x[0, 0].numel() for z in (alpha, beta)
            )
            error = 2 * (x - y - me) / variances
            for name, sign, map_, mean in (("x", 1, x, mx), ("y", -1, y, my)):
                by_means = sign * 2 * me / means - 2 * mean * me.square() / means.square()
                by_structures = sign * error - 2 * (map_ - mean) * ve / variances.square()
                found[name].append(of_means * by_means + of_structures * by_structures)
        return found


def dists(dtype: torch.dtype, batch: int, layers: list[Layer], fill: Fill = noise) -> tuple[Launch, Check]:
    problem = Problem(dtype, batch, layers, fill)

    def check(outputs: Outputs) -> None:
        values, loss, *statistics = outputs
        wide = accumulator(dtype)
        for mine, naive, exact in zip(
            statistics, problem.statistics(wide), problem.statistics(torch.float64), strict=True
        ):
            found = (from_numpy(mine, tuple(exact.shape)), naive, exact)
            for number in range(3):
                # A mean is known to a share of itself or of the deviation.
                deviation = exact[:, 3 + number].sqrt()
                assert_accurate(*(torch.cat([z[:, number], deviation.to(z.dtype)]) for z in found))
                assert_accurate(*(z[:, 3 + number] for z in found))
        (naive_loss, naive_values), (exact_loss, exact_values) = problem.values(wide), problem.values(torch.float64)
        assert_accurate(from_numpy(values, tuple(exact_values.shape)), naive_values, exact_values)
        assert_accurate(torch.from_numpy(loss), naive_loss, exact_loss)

    return Launch("dists", "dists", problem.arguments()), check


def dists_of_nan(dtype: torch.dtype, layout: str) -> tuple[Launch, Check]:
    """One number of one sample: its layer and its loss are NaN, all others numbers."""
    launch, _ = dists(dtype, 2, [Layer(layout, 8, 40, 2), Layer(layout, 3, 80)])
    spoilt = torch.from_numpy(launch.arguments["layers"][1]["x"][0]).view(dtype)
    spoilt[240 + 239] = torch.nan

    def check(outputs: Outputs) -> None:
        values, loss, first, second = outputs
        assert torch.from_numpy(values).isnan().tolist() == [False, False, False, True]
        assert torch.from_numpy(loss).isnan().tolist() == [False, True]
        assert torch.from_numpy(first).isfinite().all()
        number = from_numpy(second, (2, 6, 3)).isnan()
        assert number.sum() == 4 and number[1, [0, 2, 3, 5], 2].all()

    return launch, check


def dists_backward(
    dtype: torch.dtype, batch: int, layers: list[Layer], by: str, fill: Fill = noise
) -> tuple[Launch, Check]:
    """`by`: "x", "y" or "xy"."""
    problem, wide = Problem(dtype, batch, layers, fill), accumulator(dtype)
    statistics = [numbers.to(wide) for numbers in problem.statistics(torch.float64)]
    grad = random_map((batch,), wide, "cpu", 3)
    room = {name: [layer.room(batch, 0, dtype) for layer in layers] for name in by}
    arguments = {
        **problem.arguments(room.get("x"), room.get("y")),
        "statistics": [memory_of(numbers) for numbers in statistics],
        "grad": memory_of(grad),
    }

    def expected(type_: torch.dtype) -> list[Tensor]:
        # Far from zero, means in fp32 say less of the deviations than autograd knows.
        far = fill is far_from_zero
        found = problem.gradients_of(type_, grad, statistics) if far else problem.gradients(type_, grad)
        return [map_ for name in by for map_ in found[name]]

    def check(outputs: Outputs) -> None:
        written = [map_ for name in by for map_ in room[name]]
        for mine, map_, naive, exact in zip(outputs, written, expected(wide), expected(torch.float64), strict=True):
            assert_accurate(like_view(mine, map_), naive.to(dtype), exact)
            assert_untouched_outside(mine, map_)

    return Launch("dists", "dists_backward", arguments), check

"""The stages of a frozen trunk: forward and backward without autograd.

The bias is fused into the convolution where torch adds it for free (CPU) and into the ReLU where it would be a pass of
its own (CUDA). The library's own fused ReLU is not used: oneDNN's turns NaN into 0, and a broken image would have a
finite loss; cuDNN's leaves open what it does with it (bench/NOTES.md), and writes no signs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import _checks as checks
from ..networks.layers import POOLINGS, Conv, Layer, Pool, Relu, check_chained
from .batching import launches_cost
from .convolution import FrozenConv
from .loss_scale import LossScale

operators: Any = torch.ops.perceptual_ops


# Called with a layer's name and its map (N, C, H, W); returns whether the map must not be overwritten.
Tap = Callable[[str, Tensor], bool]


class TapGradients(Protocol):
    """Gradients of a loss with respect to the tapped maps. A backward asks for each once, the deepest first.

    Attributes:
        scale: Their loss scale; None where the maps' dtypes need none. A trunk that passes through fp16 between the
            maps sets one.
    """

    scale: LossScale | None

    def gradient(self, layer: str, scale: Tensor | None) -> Tensor:
        """The gradient with respect to a tapped map (N, C, H, W), times `scale` (N); the trunk may overwrite it."""

    def bound(self, layer: str) -> Tensor:
        """An upper bound of the magnitude of that gradient, per sample (N), unscaled."""


@dataclass(frozen=True)
class Stage:
    """A convolution, ReLU and pooling in a row; any may be missing. An "l2" pooling is a stage of its own."""

    conv: Conv | None = None
    relu: Relu | None = None
    pool: Pool | None = None

    @property
    def names(self) -> frozenset[str]:
        """Its layers."""
        return frozenset(layer.name for layer in (self.conv, self.relu, self.pool) if layer)


@dataclass
class Saved:
    """What the backward of a stage needs.

    Attributes:
        conv_size: (H, W) of the convolution's input.
        pool_size: (H, W) of the pooling's input.
        signs: Where the ReLU passes a gradient, one bit each; None where `codes` say so, or there is no ReLU.
        codes: Argmax of each pooling window.
        pooled: Input (N, C, H, W) of an "l2" pooling. It is not overwritten: later stages write to the pooling's
            output.
    """

    conv_size: tuple[int, int] = (0, 0)
    pool_size: tuple[int, int] = (0, 0)
    signs: Tensor | None = None
    codes: Tensor | None = None
    pooled: Tensor | None = None


def stages_of(layers: Sequence[Layer]) -> tuple[Stage, ...]:
    """Splits a chain into stages."""
    stages = [Stage()]
    for layer in layers:
        check_chained(layer)
        last = stages[-1]
        if isinstance(layer, Conv):
            stages.append(Stage(conv=layer))
        elif isinstance(layer, Relu):
            if last.relu or last.pool:
                stages.append(Stage(relu=layer))
            else:
                stages[-1] = Stage(last.conv, layer)
        elif isinstance(layer, Pool):
            alone = last.pool or layer.kind == "l2"
            stages[-1:] = [last, Stage(pool=layer)] if alone else [Stage(last.conv, last.relu, layer)]
    return tuple(stage for stage in stages if stage != Stage())


def bias_is_a_pass(device: torch.device) -> bool:
    """Whether torch adds a convolution's bias in a pass of its own, so that it is fused into the ReLU instead."""
    return device.type == "cuda"


class Forward:
    """A forward pass, stage by stage.

    Args:
        x: The first map (N, C, H, W), channels_last. Overwritten.
        taps: Names of the tapped layers.
        tap: Called with their maps.
        keep: Whether a backward follows.
    """

    def __init__(self, x: Tensor, taps: frozenset[str], tap: Tap, keep: bool) -> None:
        self._x: Tensor = x  # the only reference: a convolution's input is freed before its output is pooled
        self._held = False  # x, by a tap
        self._taps, self._tap, self._keep = taps, tap, keep

    def run_stage(self, stage: Stage, frozen: FrozenConv | None) -> Saved:
        """Runs the next stage; returns what its backward needs."""
        relu, pool = stage.relu, stage.pool
        saved, bias = Saved(), None
        if stage.conv and frozen:
            bias = self._convolve(stage, frozen, saved)
        # An untapped ReLU is fused into the pooling, its signs into the codes. Average pooling has no codes.
        fused = relu and pool and relu.name not in self._taps and not (self._keep and pool.kind == "average")
        if relu and not fused:
            if self._held:
                self._x = self._x.clone(memory_format=torch.channels_last)
            if pool and pool.kind != "l2" and launches_cost(self._x.device):
                self._pool_with_map(relu, pool, bias, saved)
                return saved
            signs = operators.bias_relu_(self._x, bias, self._keep)
            saved.signs, bias = signs if self._keep else None, None
            self._offer(relu)
        if pool and pool.kind == "l2":
            saved.pooled = self._x if self._keep else None
            self._x = operators.l2_pool(self._x)
            self._offer(pool)
        elif pool:
            saved.pool_size = (self._x.shape[2], self._x.shape[3])
            self._x, codes = operators.bias_relu_pool(
                self._x, bias, bool(fused), pool.kind, pool.kernel, pool.stride, self._keep
            )
            saved.codes = codes if self._keep and pool.kind != "average" else None
            self._offer(pool)
        return saved

    def _convolve(self, stage: Stage, frozen: FrozenConv, saved: Saved) -> Tensor | None:  # (C)
        """Convolves; returns the bias where the next operator adds it, which saves a pass."""
        saved.conv_size = (self._x.shape[2], self._x.shape[3])
        follows = stage.relu or stage.pool
        left = bool(follows) and bias_is_a_pass(self._x.device) and frozen.layer.name not in self._taps
        self._x = frozen.forward(self._x, biased=not left)
        self._offer(frozen.layer)
        return frozen.forward.bias if left else None

    def _pool_with_map(self, relu: Relu, pool: Pool, bias: Tensor | None, saved: Saved) -> None:  # (C)
        """A tapped ReLU and its pooling in one pass.

        On a CPU it would save nothing, and the pooled map would take memory while the tap compares the other.
        """
        saved.pool_size = (self._x.shape[2], self._x.shape[3])
        pooled, signs, codes = operators.bias_relu_pool_(self._x, bias, pool.kind, pool.kernel, pool.stride, self._keep)
        if self._keep:
            saved.signs, saved.codes = signs, codes if pool.kind != "average" else None
        self._offer(relu)
        self._x = pooled
        self._offer(pool)

    def _offer(self, layer: Layer) -> None:
        self._held = layer.name in self._taps and self._tap(layer.name, self._x)


class Backward:
    """A backward pass, stage by stage.

    Attributes:
        x: The gradient (N, C, H, W) with respect to the current map, times the scale; None before the deepest tap.
    """

    def __init__(self, gradients: TapGradients, taps: frozenset[str]) -> None:
        self.x: Tensor | None = None
        self._gradients, self._scale, self._taps = gradients, gradients.scale, taps

    def run_stage(self, stage: Stage, frozen: FrozenConv | None, saved: Saved) -> None:
        """From the gradient with respect to a stage's output to the one with respect to its input."""
        growth = frozen.growth if frozen else None
        if stage.pool and stage.pool.kind == "l2":
            self._add(stage.pool, growth=None)
            # The bound does not change: y = sqrt(sum of w x^2) has dy/dx = w x / y, at most sqrt(w), and an x is in
            # one window with w = 1/4, two with 1/8 or four with 1/16, so the sum of sqrt(w) is at most 1.
            self.x = operators.l2_pool_backward(self._grad(), saved.pooled)
        elif stage.pool:
            self._add(stage.pool, growth=None)
            self._through_pool(stage, stage.pool, saved, growth)
        elif stage.relu:
            self._through_relu(stage, saved, growth)
        elif stage.conv:
            self._add(stage.conv, growth)
        if frozen:
            if self._scale and growth is not None:
                self._scale.grow(growth)
            self.x = frozen.input_gradient(self._grad(), saved.conv_size)

    def _add(self, layer: Layer, growth: Tensor | None) -> None:
        """Adds the gradient of a tapped layer, and rescales for the next convolution."""
        tapped = layer.name in self._taps
        if not tapped and growth is None:
            return
        factor = self._factor([layer], 1.0, growth)
        if self.x is not None and factor is not None:
            self.x.mul_(factor.view(-1, 1, 1, 1))
        if tapped:
            tap = self._gradient(layer)
            self.x = tap if self.x is None else self.x.add_(tap)

    def _through_relu(self, stage: Stage, saved: Saved, growth: Tensor | None) -> None:
        factor = self._factor([stage.relu, stage.conv], 1.0, growth)
        tap, below = self._tap(stage.relu), self._tap(stage.conv)
        if self.x is None:
            self.x, tap = tap, None
        operators.bias_relu_backward_(self._grad(), saved.signs, tap, below, factor, self._maxima())

    def _through_pool(self, stage: Stage, pool: Pool, saved: Saved, growth: Tensor | None) -> None:
        factor = self._factor([stage.relu, stage.conv], _spread(pool), growth)
        tap, below = self._tap(stage.relu), self._tap(stage.conv)
        x = self._grad()
        result = tap if tap is not None else _empty(x, saved.pool_size)
        operators.bias_relu_pool_backward_(
            result, x, saved.codes, saved.signs, tap is not None, below, factor, pool.kind, pool.kernel, pool.stride,
            self._maxima(),
        )  # fmt: skip
        self.x = result

    def _factor(self, layers: Sequence[Layer | None], spread: float, growth: Tensor | None) -> Tensor | None:  # (N)
        """Chooses the scale of what is written next: the gradient so far plus those of tapped layers."""
        if self._scale is None:
            return None
        bounds = [self._gradients.bound(layer.name) for layer in layers if layer and layer.name in self._taps]
        return self._scale.choose(bounds, spread, growth)

    def _maxima(self) -> Tensor | None:  # (N)
        return self._scale.measured() if self._scale else None

    def _tap(self, layer: Layer | None) -> Tensor | None:
        return self._gradient(layer) if layer and layer.name in self._taps else None

    def _gradient(self, layer: Layer) -> Tensor:
        return self._gradients.gradient(layer.name, self._scale.current if self._scale else None)

    def _grad(self) -> Tensor:
        assert self.x is not None, "the deepest layer is a tap"
        return self.x


def _empty(x: Tensor, size: tuple[int, int]) -> Tensor:  # (N, C, *, *) -> (N, C, H, W)
    shape = (x.shape[0], x.shape[1], *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _spread(pool: Pool) -> float:
    """Bound of how much a pooling's backward can enlarge the gradient."""
    overlap = math.ceil(pool.kernel / pool.stride) ** 2
    if pool.kind == "max":
        return overlap
    if pool.kind == "average":
        return overlap / pool.kernel**2
    if pool.kind != "blur":
        raise checks.unknown("kind", pool.kind, POOLINGS)
    return 4 * pool.kernel**2  # windows at stride 1, whose maxima the reflected border counts up to four times

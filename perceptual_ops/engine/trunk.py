"""Forward and backward of a frozen trunk without an autograd graph.

A frozen network needs less than autograd saves: no weight gradient, so no convolution input; one bit per element of a
ReLU, four bits per window of a max pooling. Convolutions are torch's, in channels_last; whatever lies between them is
one pass each way (csrc/activation, stages.py).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..networks.feature_network import FeatureNetwork
from ..networks.layers import Conv, check_chained, convolutions_of
from .convolution import FrozenConv
from .joined_runs import JoinedRuns, are_few
from .modes import made_to_keep
from .registry import FrozenTrunk, Run, kind_of
from .stages import Backward, Forward, Saved, Stage, Tap, TapGradients, stages_of

operators: Any = torch.ops.perceptual_ops


@dataclass(frozen=True)
class Tape:
    """What a forward saves for its backward."""

    taps: frozenset[str]
    stages: Sequence[Stage]
    convolutions: Sequence[FrozenConv | None]
    saved: list[Saved]

    def of(self, layers: Iterable[str]) -> Tape:
        """A separate tape for the gradients of some of the taps. A pooling ends its stage; a ReLU need not."""
        taps = self.taps.intersection(layers)
        count = max(i for i, stage in enumerate(self.stages, start=1) if not taps.isdisjoint(stage.names))
        stages, saved = list(self.stages[:count]), self.saved[:count]
        if stages[-1].pool and stages[-1].pool.name not in taps:
            stages[-1], saved[-1] = replace(stages[-1], pool=None), replace(saved[-1], codes=None)
        return Tape(taps, stages, self.convolutions, saved)


def holder(maps: dict[str, Tensor]) -> Tap:
    """A tap that stores the maps by layer name."""

    def hold(layer: str, x: Tensor) -> bool:
        maps[layer] = x
        return True

    return hold


class Trunk(FrozenTrunk):
    """A frozen chain of layers that runs without autograd."""

    def __init__(self, network: FeatureNetwork) -> None:
        if not network.is_chain:
            raise ValueError(f"network: expected one that is_chain, got {network.name}; run it by autograd")
        self.network = network
        self.has_small_maps: bool = convolutions_of(network.layers)[0].stride > 1
        self._lock = threading.Lock()
        super().__init__(network.name, network)

    def __reduce__(self) -> tuple[type[Trunk], tuple[FeatureNetwork]]:
        return Trunk, (self.network,)  # a copy has its own key and remakes what is derived

    def sizes(self, height: int, width: int) -> dict[str, tuple[int, int, int]]:
        """The (C, H, W) of each layer for images of a size."""
        sizes: dict[str, tuple[int, int, int]] = {}
        channels = 3
        for layer in self.network.layers:
            check_chained(layer)
            channels = layer.out_channels if isinstance(layer, Conv) else channels
            height, width = layer.output_size(height), layer.output_size(width)
            sizes[layer.name] = (channels, height, width)
        return sizes

    def forget(self) -> None:
        """See `FrozenTrunk`. Drops what is derived from the weights."""
        super().forget()
        with self._lock:
            self._convolutions: dict[torch.dtype, dict[str, FrozenConv]] = {}

    def prepare(self, dtype: torch.dtype) -> None:
        """See `FrozenTrunk`."""
        self._derived(dtype)

    def enter(self, images: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
        """See `FrozenTrunk`; (N, C, H, W), channels_last, of that dtype."""
        return operators.normalize_images(images, scale.flatten(), shift.flatten(), dtype)

    def leave(self, grad: Tensor, images: Tensor, scale: Tensor, factor: Tensor | None, add: Tensor | None) -> Tensor:
        """See `FrozenTrunk`."""
        return operators.normalize_images_backward(grad, images, scale.flatten(), factor, add)

    def forward(self, x: Tensor, layers: Iterable[str], tap: Tap, keep: bool, after: str | None = None) -> Tape:
        """Runs normalised images, or the output of a pooling, up to the deepest layer wanted.

        Args:
            x: (N, C, H, W), channels_last; the dtype is that of the arithmetic. Overwritten.
            layers: Names of the layers wanted.
            tap: Takes their maps (N, C', H', W'), in the order of the network.
            keep: Whether a backward is to follow.
            after: The pooling whose map x is; None: x is normalised images.
        """
        runs, dtype = [(x, tap, keep)], x.dtype
        del x  # keep no reference, so the first convolution's input is freed after use
        return self.forward_together(runs, list(layers), dtype, after)[0]

    def forward_together(
        self, runs: list[Run], layers: Sequence[str], dtype: torch.dtype, after: str | None = None
    ) -> list[Tape]:
        """As `forward`, for several runs (x, tap, keep) in lockstep, stage by stage.

        Empties the list.
        """
        taps = frozenset(layers)
        names = [layer.name for layer in self.network.layers]
        first = names.index(after) + 1 if after else 0
        last = max(i for i, name in enumerate(names) if name in taps)
        derived = self._derived(dtype)
        stages = stages_of(self.network.layers[first : last + 1])
        convolutions = [derived[stage.conv.name] if stage.conv else None for stage in stages]
        tapes = [Tape(taps, stages, convolutions, []) for _ in runs]
        joined = JoinedRuns(runs) if are_few(runs) else None
        forwards = [Forward(x, taps, tap, keep) for x, tap, keep in ([joined.take()] if joined else runs)]
        runs.clear()
        for stage, frozen in zip(stages, convolutions, strict=True):
            saved = [forward.run_stage(stage, frozen) for forward in forwards]
            for tape, own in zip(tapes, joined.saved(saved[0]) if joined else saved, strict=True):
                tape.saved.append(own)
        return tapes

    def features(self, x: Tensor, layers: Iterable[str], keep: bool) -> tuple[dict[str, Tensor], Tape]:
        """As `forward`, with the maps by layer name."""
        maps: dict[str, Tensor] = {}
        tape = self.forward(x, layers, holder(maps), keep)
        return maps, tape

    def backward(self, tape: Tape, gradients: TapGradients) -> Tensor:  # (N, C, H, W)
        """The gradient with respect to what went in, times gradients.scale.current where there is a scale.

        Consumes the tape.
        """
        backward = Backward(gradients, tape.taps)
        while tape.saved:
            i = len(tape.saved) - 1
            backward.run_stage(tape.stages[i], tape.convolutions[i], tape.saved.pop())
        assert backward.x is not None
        return backward.x

    def _derived(self, dtype: torch.dtype) -> dict[str, FrozenConv]:
        with self._lock:
            if dtype not in self._convolutions:
                _, device = kind_of(self.network)
                self._convolutions[dtype] = made_to_keep(lambda: self._derive(dtype), device)
            return self._convolutions[dtype]

    @torch.no_grad()
    def _derive(self, dtype: torch.dtype) -> dict[str, FrozenConv]:
        return {
            layer.name: FrozenConv(self.network.module_of(layer), layer, dtype)
            for layer in self.network.layers
            if isinstance(layer, Conv)
        }

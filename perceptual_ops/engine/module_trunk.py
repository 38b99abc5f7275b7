"""Any frozen module as a trunk: each chunk under ordinary autograd, whose graph is freed before the next."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._autocast import autocast
from ..networks import FeatureNetwork, ModuleFeatures
from .chunk_graph import nodes_behind, passes_fp16
from .loss_scale import LARGEST, LossScale
from .modes import under_autograd
from .registry import FrozenTrunk, Run, kind_of
from .stages import TapGradients

# Headroom for the growth of an fp16 gradient within a module. Networks with normalisation layers change it little; for
# others the backward is repeated with a smaller scale.
GROWTH = 2.0**12
RETRIES = 3


@dataclass(frozen=True)
class ModuleTape:
    """The autograd graph of a forward.

    Attributes:
        entered: The input, a leaf.
        maps: The features by layer, with their graph.
        passes_fp16: Whether the gradient is to be scaled.
    """

    entered: Tensor  # (n, C, ...)
    maps: dict[str, Tensor]  # (n, C, H, W)
    passes_fp16: bool


class ModuleTrunk(FrozenTrunk):
    """A frozen network that runs by its own forward.

    Autograd saves what it needs for one chunk and frees it once the chunk's gradient exists.
    """

    def __init__(self, network: FeatureNetwork | ModuleFeatures) -> None:
        self.network = network
        super().__init__(
            network.name if isinstance(network, FeatureNetwork) else type(network.module).__name__, network
        )

    def __reduce__(self) -> tuple[type[ModuleTrunk], tuple[FeatureNetwork | ModuleFeatures]]:
        return ModuleTrunk, (self.network,)  # a copy has its own key

    def forget(self) -> None:
        """See `FrozenTrunk`."""
        super().forget()
        self._passes_fp16: dict[tuple[torch.dtype, frozenset[str]], bool] = {}

    def prepare(self, dtype: torch.dtype) -> None:
        """See `FrozenTrunk`. A module runs by its own weights."""

    @property
    def _dtype(self) -> torch.dtype:
        return kind_of(self.network)[0]

    def enter(self, images: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
        """See `FrozenTrunk`; of the weights' dtype, since autocast casts in the module as it sees fit."""
        wide = scale.dtype
        scale, shift = (per_channel(numbers, images) for numbers in (scale, shift))
        return torch.addcmul(shift, images.to(wide), scale).to(self._dtype)

    def leave(self, grad: Tensor, images: Tensor, scale: Tensor, factor: Tensor | None, add: Tensor | None) -> Tensor:
        """See `FrozenTrunk`."""
        grad = grad.to(scale.dtype) * per_channel(scale, images)
        if factor is not None:
            grad = grad * factor.view(-1, *[1] * (grad.dim() - 1))
        return grad if add is None else grad.add_(add)

    def forward_together(
        self, runs: list[Run], layers: Sequence[str], dtype: torch.dtype, after: str | None = None
    ) -> list[ModuleTape]:
        """See `FrozenTrunk`; one after the other."""
        assert after is None, "a module begins with the images"
        tapes = []
        while runs:
            x, tap, keep = runs.pop(0)
            # Even without a graph: a module may compute gradients itself, or cache tensors for the next call.
            with under_autograd(), torch.set_grad_enabled(keep), self._precision(x.device, dtype):
                entered = (x.clone() if x.is_inference() else x).requires_grad_(keep)
                # A module may overwrite its images, but no leaf.
                maps = self.network.features(entered.clone() if keep else entered, layers)
            if keep and not any(map.requires_grad for map in maps.values()):
                raise RuntimeError(
                    f"network: expected a gradient from {', '.join(layers)} to the images, there is none; "
                    f"{self.name} must not run under torch.no_grad or detach them"
                )
            for layer in layers:
                tap(layer, maps[layer].detach())
            tapes.append(ModuleTape(entered, maps if keep else {}, keep and self._narrows(maps, dtype)))
            del x, entered, maps  # nothing of a run that keeps nothing stays
        return tapes

    def backward(self, tape: ModuleTape, gradients: TapGradients) -> Tensor:
        """See `FrozenTrunk`. Frees the graph."""
        maps = {layer: x for layer, x in tape.maps.items() if x.requires_grad}
        if tape.passes_fp16 and gradients.scale is None:
            gradients.scale = LossScale()
        scale = gradients.scale
        if scale:
            bounds = torch.stack([gradients.bound(layer) for layer in maps])
            scale.choose([bounds.sum(0)], room=LARGEST / GROWTH)
        current = scale.current if scale else None
        upstream = [gradients.gradient(layer, current) for layer in maps]
        tape.maps.clear()
        with under_autograd():
            if scale:
                return _in_range(list(maps.values()), tape.entered, upstream, scale)
            return torch.autograd.grad(list(maps.values()), tape.entered, upstream)[0]

    def _narrows(self, maps: dict[str, Tensor], dtype: torch.dtype) -> bool:
        """Whether a gradient passes through fp16, whatever autocast says: by weights or casts of the module's own.

        Determined once per set of layers. fp64 has no loss scaling.
        """
        key = dtype, frozenset(maps)
        if key not in self._passes_fp16:
            self._passes_fp16[key] = dtype != torch.float64 and passes_fp16(nodes_behind(maps.values()))
        return self._passes_fp16[key]

    def _precision(self, device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
        """The weights' own arithmetic, or autocast's."""
        return autocast(device.type, None if dtype == self._dtype else dtype)


def _in_range(maps: list[Tensor], entered: Tensor, upstream: list[Tensor], scale: LossScale) -> Tensor:
    """The fp16 gradient (n, C, ...), recomputed at a smaller scale for samples that overflowed."""
    (gradient,) = torch.autograd.grad(maps, entered, upstream, retain_graph=True)
    for _ in range(RETRIES):
        finite = gradient.isfinite().flatten(1).all(1)
        if finite.all():
            break
        factor = torch.where(finite, 1.0, 1 / GROWTH)
        scale.current = scale.current * factor
        upstream = [(x * factor.view(-1, 1, 1, 1)).to(x.dtype) for x in upstream]
        (gradient,) = torch.autograd.grad(maps, entered, upstream, retain_graph=True)
    return gradient


def per_channel(values: Tensor, images: Tensor) -> Tensor:  # (1, C, 1, 1) -> (1, C, 1, ...)
    """Values per channel, shaped to broadcast over images or clips."""
    return values.view(1, -1, *[1] * (images.dim() - 2))

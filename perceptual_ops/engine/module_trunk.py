"""Any frozen module as a trunk: each chunk under ordinary autograd, whose graph is freed before the next."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..networks import FeatureNetwork, ModuleFeatures
from .loss_scale import LossScale
from .modes import under_autograd
from .registry import Run, enroll, kind_of, new_number
from .stages import TapGradients

# What a module may make of a gradient in fp16 on its way down. Networks with normalisation layers change it little; for
# others the backward is repeated with less.
GROWTH = 2.0**12
RETRIES = 3


@dataclass(frozen=True)
class ModuleTape:
    """The graph of a forward.

    Attributes:
        entered: What went in, a leaf.
        maps: The features by layer, with their graph.
    """

    entered: Tensor  # (n, C, ...)
    maps: dict[str, Tensor]  # (n, C, H, W)


class ModuleTrunk:
    """A frozen network that is run by its own forward; a `FrozenTrunk`.

    Autograd keeps what it wants of one chunk, and gives the memory back when the chunk's gradient is made.
    """

    def __init__(self, network: FeatureNetwork | ModuleFeatures) -> None:
        self.network = network
        self._number = new_number()
        self.forget()

    def __reduce__(self) -> tuple[type[ModuleTrunk], tuple[FeatureNetwork | ModuleFeatures]]:
        return ModuleTrunk, (self.network,)  # a copy has its own key

    @property
    def key(self) -> str:
        """See `FrozenTrunk`."""
        return self._key

    def forget(self) -> None:
        """To be called when the network has moved."""
        network = self.network
        name = network.name if isinstance(network, FeatureNetwork) else type(network.module).__name__
        self._key = enroll(self, name, network, self._number)

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
            # Also without a graph: a module may make gradients of its own, or keep what it derives for the next call.
            with under_autograd(), torch.set_grad_enabled(keep), self._precision(x.device, dtype):
                entered = (x.clone() if x.is_inference() else x).requires_grad_(keep)
                # A module may overwrite its images, but no leaf.
                maps = self.network.features(entered.clone() if keep else entered, layers)
            if keep and not any(map.requires_grad for map in maps.values()):
                raise RuntimeError(
                    f"network: expected a gradient from {', '.join(layers)} to the images, there is none; "
                    f"{type(self.network).__name__} must not run under torch.no_grad or detach them"
                )
            for layer in layers:
                tap(layer, maps[layer].detach())
            tapes.append(ModuleTape(entered, maps if keep else {}))
            del x, entered, maps  # nothing of a run that keeps nothing stays
        return tapes

    def backward(self, tape: ModuleTape, gradients: TapGradients) -> Tensor:
        """See `FrozenTrunk`. Frees the graph."""
        maps = {layer: x for layer, x in tape.maps.items() if x.requires_grad}
        scale = gradients.scale
        if scale:
            scale.choose([gradients.bound(layer) for layer in maps], 1.0, GROWTH, first=True)
        current = scale.current if scale else None
        upstream = [gradients.gradient(layer, current) for layer in maps]
        tape.maps.clear()
        with under_autograd():
            if scale:
                return _in_range(list(maps.values()), tape.entered, upstream, scale)
            return torch.autograd.grad(list(maps.values()), tape.entered, upstream)[0]

    def _precision(self, device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
        """The weights' own arithmetic, or autocast's."""
        return torch.autocast(device.type, dtype=dtype, enabled=dtype != self._dtype)


def _in_range(maps: list[Tensor], entered: Tensor, upstream: list[Tensor], scale: LossScale) -> Tensor:
    """The gradient (n, C, ...) in fp16, by a smaller scale for the samples whose gradient overflowed."""
    (found,) = torch.autograd.grad(maps, entered, upstream, retain_graph=True)
    for _ in range(RETRIES):
        finite = found.isfinite().flatten(1).all(1)
        if finite.all():
            break
        factor = torch.where(finite, 1.0, 1 / GROWTH)
        scale.current = scale.current * factor
        upstream = [(x * factor.view(-1, 1, 1, 1)).to(x.dtype) for x in upstream]
        (found,) = torch.autograd.grad(maps, entered, upstream, retain_graph=True)
    return found


def per_channel(numbers: Tensor, images: Tensor) -> Tensor:  # (1, C, 1, 1) -> (1, C, 1, ...)
    """Numbers of each channel, as images or clips take them."""
    return numbers.view(1, -1, *[1] * (images.dim() - 2))

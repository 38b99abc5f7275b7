"""Forward and backward of a frozen trunk without an autograd graph.

A frozen network asks for less than autograd keeps: no gradient of a weight, so no input of a convolution; of a ReLU one
bit an element, of a max-pooling four bits a window. Convolutions are torch's, in channels_last; what lies between them
is one pass each way (csrc/activation, stages.py).
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import threading
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..networks.feature_network import FeatureNetwork
from ..networks.layers import Conv
from .convolution import FrozenConv
from .stages import Backward, Forward, Saved, Stage, Tap, TapGradients, stages_of


@dataclass(frozen=True)
class Tape:
    """A forward as its backward reads it."""

    taps: frozenset[str]
    stages: Sequence[Stage]
    convolutions: Sequence[FrozenConv | None]
    saved: list[Saved]

    def of(self, layers: Iterable[str]) -> Tape:
        """A tape of its own for the gradients of some of the taps; poolings end their stages, ReLUs need not."""
        taps = self.taps.intersection(layers)
        count = max(i for i, stage in enumerate(self.stages, start=1) if not taps.isdisjoint(stage.names))
        stages, saved = list(self.stages[:count]), self.saved[:count]
        if stages[-1].pool and stages[-1].pool.name not in taps:
            stages[-1], saved[-1] = replace(stages[-1], pool=None), replace(saved[-1], codes=None)
        return Tape(taps, stages, self.convolutions, saved)


def holder(maps: dict[str, Tensor]) -> Tap:
    """A tap that holds on to the maps, by layer name."""

    def hold(layer: str, x: Tensor) -> bool:
        maps[layer] = x
        return True

    return hold


class Trunk:
    """A frozen network as a chain that is run by hand.

    Attributes:
        key: A name under which `trunk_of` finds it as long as it lives: architecture, device and a hash of the weights,
            so that a graph which a compiler kept finds in another process its own network or none, and a number, so
            that here it finds this very object. Operators that are opaque to torch.compile take strings and tensors.
    """

    def __init__(self, network: FeatureNetwork) -> None:
        if not network.is_chain:
            raise ValueError(f"network: expected one that is_chain, got {network.name}; run it by autograd")
        self.network = network
        self._number = next(_numbers)
        self._lock = threading.Lock()
        self.forget()

    def __reduce__(self) -> tuple[type[Trunk], tuple[FeatureNetwork]]:
        return Trunk, (self.network,)  # a copy has its own key and remakes what is derived

    def sizes(self, height: int, width: int) -> dict[str, tuple[int, int, int]]:
        """The (C, H, W) of each layer for images of a size."""
        found: dict[str, tuple[int, int, int]] = {}
        channels = 3
        for layer in self.network.layers:
            channels = layer.out_channels if isinstance(layer, Conv) else channels
            height, width = layer.output_size(height), layer.output_size(width)
            found[layer.name] = (channels, height, width)
        return found

    def forget(self) -> None:
        """Drops what is derived from the weights; to be called when the network has moved."""
        self._convolutions: dict[torch.dtype, dict[str, FrozenConv]] = {}
        device = next(self.network.parameters()).device
        self.key = f"{self.network.name}/{device}/{content_hash(self.network)}/{self._number}"
        _trunks[self.key] = self

    def forward(self, x: Tensor, layers: Iterable[str], tap: Tap, keep: bool, after: str | None = None) -> Tape:
        """Runs normalised images, or the map of a pooling, up to the deepest layer wanted.

        Args:
            x: (N, C, H, W), channels_last; the dtype is that of the arithmetic. Overwritten.
            layers: Names of the layers wanted.
            tap: Takes their maps (N, C', H', W'), in the order of the network.
            keep: Whether a backward is to follow.
            after: The pooling whose map x is; None: x is normalised images.
        """
        runs = [(x, tap, keep)]
        del x  # held by nobody else, so that it is gone when it was read
        return self.forward_together(runs, layers, after)[0]

    def forward_together(
        self, runs: list[tuple[Tensor, Tap, bool]], layers: Iterable[str], after: str | None = None
    ) -> list[Tape]:
        """As `forward`, for several runs (x, tap, keep) side by side: each layer's maps of one after those of another.

        Empties the list.
        """
        taps = frozenset(layers)
        names = [layer.name for layer in self.network.layers]
        first = names.index(after) + 1 if after else 0
        last = max(i for i, name in enumerate(names) if name in taps)
        derived = self._derived(runs[0][0].dtype)
        stages = stages_of(self.network.layers[first : last + 1])
        convolutions = [derived[stage.conv.name] if stage.conv else None for stage in stages]
        forwards = [Forward(x, taps, tap, keep) for x, tap, keep in runs]
        runs.clear()
        tapes = [Tape(taps, stages, convolutions, []) for _ in forwards]
        for stage, frozen in zip(stages, convolutions, strict=True):
            for tape, forward in zip(tapes, forwards, strict=True):
                tape.saved.append(forward.run_stage(stage, frozen))
        return tapes

    def features(self, x: Tensor, layers: Iterable[str], keep: bool) -> tuple[dict[str, Tensor], Tape]:
        """As `forward`, with the maps by layer name."""
        found: dict[str, Tensor] = {}
        tape = self.forward(x, layers, holder(found), keep)
        return found, tape

    def backward(self, tape: Tape, gradients: TapGradients) -> Tensor:  # (N, C, H, W)
        """The gradient by what went in, times gradients.scale.current where there is a scale.

        Uses the tape up.
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
                with torch.inference_mode(False), torch.no_grad():
                    self._convolutions[dtype] = {
                        layer.name: FrozenConv(getattr(self.network, layer.name), layer, dtype)
                        for layer in self.network.layers
                        if isinstance(layer, Conv)
                    }
            return self._convolutions[dtype]


_trunks: weakref.WeakValueDictionary[str, Trunk] = weakref.WeakValueDictionary()
_numbers = itertools.count()


def trunk_of(key: str) -> Trunk:
    """The trunk with a key, or another one with the same weights on the same device.

    Raises:
        RuntimeError: There is none in this process.
    """
    found = _trunks.get(key)
    if found is None:
        same = key.rpartition("/")[0]
        found = next((trunk for other, trunk in list(_trunks.items()) if other.rpartition("/")[0] == same), None)
    if found is None:
        name, device, content, _ = key.split("/")
        raise RuntimeError(
            f"network: expected a loss over {name} on {device} whose weights hash to {content}, this process holds "
            "none; make the loss that this program was compiled with, or use torch.export, whose programs hold the "
            "weights"
        )
    return found


def content_hash(network: FeatureNetwork) -> str:
    """The first digits of the SHA-256 of the layers and weights; 0.05 s for a VGG16."""
    content = hashlib.sha256(repr(network.layers).encode())
    for name, weight in network.state_dict().items():
        content.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        if not weight.is_meta:
            here = weight.detach().cpu().contiguous()
            content.update((ctypes.c_char * here.nbytes).from_address(here.data_ptr()))
    return content.hexdigest()[:16]

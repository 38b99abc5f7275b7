"""Trunks by name: operators that are opaque to torch.compile take strings and tensors, no modules."""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._native import constant_when_compiled
from .cuda_graph import CudaGraphs
from .stages import Tap, TapGradients

Tape = Any  # what a forward saves for its backward; each kind of trunk has its own class
Run = tuple[Tensor, Tap, bool]  # input (N, C, H, W), tap for its maps, whether a backward follows


class FrozenTrunk(ABC):
    """A frozen network as operators run it.

    Its key is computed on first use; until then it may move between devices freely.

    Args:
        name: What the key and users call the network.
        network: The network.

    Attributes:
        graphs: Captured CUDA graphs of calls over it.
        has_small_maps: Whether most of its maps have far fewer pixels than the image, see `default_chunk_size`.
    """

    has_small_maps: bool = True
    _content: str | None

    def __init__(self, name: str, network: nn.Module) -> None:
        self.name: str = name
        self._hashed = network
        self.forget()
        _trunks.add(self)

    @property
    def key(self) -> str:
        """What `trunk_by_key` finds it by: architecture, device and a hash of the weights, then a number.

        By the hash a graph from a compiler's cache finds the same network in another process, or none; by the number it
        finds this very object in this one.
        """
        # torch.compile guards the number alone; a key of before the network moved finds this object too.
        return f"{self.content()}/{self._number}"

    @constant_when_compiled  # Dynamo traces no hash
    def content(self) -> str:
        """The key without its number."""
        if self._content is None:
            _, device = kind_of(self._hashed)
            self._content = f"{self.name}/{device}/{content_hash(self._hashed)}"
            _by_key[f"{self._content}/{self._number}"] = self
        return self._content

    def forget(self) -> None:
        """Call this when the network has moved or its weights have changed.

        The number changes with it, so that torch.compile recompiles: its CUDA graphs would read freed weights.
        """
        self._content = None
        self._number = str(next(_numbers))  # no int, which torch.compile might take for a size
        self.drop_graphs()

    def drop_graphs(self) -> None:
        """Frees the captured graphs."""
        self.graphs: CudaGraphs = CudaGraphs()

    @abstractmethod
    def prepare(self, dtype: torch.dtype) -> None:
        """Derives from the weights what arithmetic in a dtype needs, once."""

    @abstractmethod
    def enter(self, images: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
        """Images (N, C, ...) * scale + shift, as `forward_together` takes them for arithmetic in a dtype."""

    @abstractmethod
    def leave(self, grad: Tensor, images: Tensor, scale: Tensor, factor: Tensor | None, add: Tensor | None) -> Tensor:
        """The gradient with respect to images, from that with respect to what entered, times factor (N); plus add."""

    @abstractmethod
    def forward_together(
        self, runs: list[Run], layers: Sequence[str], dtype: torch.dtype, after: str | None = None
    ) -> list[Tape]:
        """Runs several inputs in lockstep, stage by stage, and calls their taps. Empties the list."""

    @abstractmethod
    def backward(self, tape: Tape, gradients: TapGradients) -> Tensor:
        """The gradient with respect to what entered, times gradients.scale.current where there is a scale."""


_by_key: weakref.WeakValueDictionary[str, FrozenTrunk] = weakref.WeakValueDictionary()
_trunks: weakref.WeakSet[FrozenTrunk] = weakref.WeakSet()
_numbers = itertools.count()


def kind_of(network: nn.Module) -> tuple[torch.dtype, torch.device]:
    """The dtype and device of a network's weights; where it has none, of its buffers."""
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype, tensor.device
    return torch.float32, torch.device("cpu")


def trunk_by_key(key: str) -> FrozenTrunk:
    """The trunk with this key, or another with the same weights on the same device.

    Raises:
        RuntimeError: There is none in this process.
    """
    found = _by_key.get(key)
    if found is None:
        same = key.rpartition("/")[0]
        found = next((trunk for trunk in list(_trunks) if trunk.content() == same), None)
    if found is None:
        name, device, content, _ = key.split("/")
        raise RuntimeError(
            f"network: expected a loss over {name} on {device} whose weights hash to {content}, this process holds "
            "none; make the loss that this program was compiled with, or use torch.export, whose programs hold the "
            "weights"
        )
    return found


@constant_when_compiled
def prepared(key: str, dtype: torch.dtype) -> str:
    """The key of a trunk, once it is prepared for arithmetic in a dtype.

    torch.compile calls it while tracing: weights derived within an operator would lie in the memory of a CUDA graph.
    """
    trunk_by_key(key).prepare(dtype)
    return key


def content_hash(network: nn.Module) -> str:
    """That of the layers and weights; 0.05 s for a VGG16."""
    tensors = itertools.chain(network.named_parameters(), network.named_buffers())
    return hash_of(repr(getattr(network, "layers", network)), tensors)


def hash_of(text: str, tensors: Iterable[tuple[object, Tensor]]) -> str:
    """The first digits of the SHA-256 of a text, and of tensors with their names or numbers."""
    content = hashlib.sha256(text.encode())
    for name, tensor in tensors:
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if not tensor.is_meta and type(tensor) in (Tensor, nn.Parameter):
            here = tensor.detach().cpu().contiguous()
            content.update((ctypes.c_char * here.nbytes).from_address(here.data_ptr()))
    return content.hexdigest()[:16]

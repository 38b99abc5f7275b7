"""What operators over a frozen trunk share: how images enter it, and a gradient that was made in the forward.

Such operators are opaque to torch.compile: the network is named by its key, and what the caller's modes say (autocast,
whose gradient is wanted) comes as an argument. Their first two arguments are the images, their last two whose gradient
is wanted; they return the loss (N), values that no gradient flows through, and the gradients with respect to
the images. Settings are objects to those who call them (`OperatorSettings`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

import torch
from torch import Tensor

from .batching import chunks, default_tile_side, samples_at_a_time
from .registry import Run, Tape, trunk_of
from .stages import TapGradients
from .tiles import cut_of
from .trunk import Trunk, holder

if TYPE_CHECKING:
    from typing_extensions import Self

# Arguments that operators take, by the type of a field. There are no lists of strings: names are joined, one a line.
ARGUMENTS = {
    str: "str", bool: "bool", int: "int", float: "float", torch.dtype: "ScalarType", Tensor: "Tensor",
    tuple[float, ...]: "float[]", tuple[str, ...]: "str",
}  # fmt: skip


class OperatorSettings:
    """A dataclass whose fields are arguments of an operator, one each; a field that is such a class is those of it.

    Whoever adds a setting adds a field: the operator's schema, encoding and decoding follow from its type.
    """

    _types: ClassVar[dict[str, Any]]
    _names: ClassVar[frozenset[str]]

    def __init_subclass__(cls) -> None:
        hints = get_type_hints(cls)
        cls._types = {field: hints[field] for field in cls.__annotations__}
        cls._names = frozenset(field for field, kind in cls._types.items() if kind == tuple[str, ...])

    @classmethod
    def schema(cls, prefix: str = "") -> str:
        """The arguments, as a part of an operator's schema; `prefix` goes before each name."""
        found = []
        for field, kind in cls._types.items():
            if _is_settings(kind):
                found.append(kind.schema(f"{prefix}{field}_"))
            elif kind in ARGUMENTS:
                found.append(f"{ARGUMENTS[kind]} {prefix}{field}")
            else:
                raise TypeError(f"{cls.__name__}.{field}: expected a type of {list(ARGUMENTS)}, got {kind}")
        return ", ".join(found)

    def encoded(self) -> list[Any]:
        """The arguments of these settings; torch.compile traces it."""
        found: list[Any] = []
        for field in self._types:
            value = getattr(self, field)
            if isinstance(value, OperatorSettings):
                found += value.encoded()
            elif field in self._names:
                found.append("\n".join(value))
            else:
                found.append(list(value) if isinstance(value, tuple) else value)
        return found

    @classmethod
    def decoded(cls, arguments: Iterator[Any]) -> Self:
        """The settings whose arguments come next."""
        values = []
        for field, kind in cls._types.items():
            value = kind.decoded(arguments) if _is_settings(kind) else next(arguments)
            if field in cls._names:
                value = layer_names(value)
            values.append(tuple(value) if isinstance(value, list) else value)
        return cls(*values)


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, OperatorSettings)


@dataclass(frozen=True)
class Entry(OperatorSettings):
    """How images enter a trunk: images * scale + shift, in the dtype of the arithmetic.

    Attributes:
        trunk: Key of the trunk.
        scale, shift: (1, 3, 1, 1).
        dtype: Of the arithmetic.
        chunk_size: Samples that go through the trunk at a time; 0: see `default_chunk_size`.
    """

    trunk: str
    scale: Tensor
    shift: Tensor
    dtype: torch.dtype
    chunk_size: int

    @property
    def wide(self) -> torch.dtype:
        """The dtype of losses and image gradients."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def chunks(self, images: Tensor) -> list[slice]:
        return chunks(images.shape[0], self.chunk_size or samples_at_a_time(images, self.dtype))

    def tiles(self, images: Tensor, layers: Sequence[str]) -> tuple[str, int] | None:
        """The pooling up to which large images go through a chain in tiles, and their side; None: they do not."""
        trunk = trunk_of(self.trunk)
        side = default_tile_side(images.shape[2], images.shape[3], self.dtype, images.device.type)
        cut = cut_of(trunk.network.layers, layers) if side and isinstance(trunk, Trunk) else None
        return (cut, side) if cut and side else None

    def normalized(self, images: Tensor) -> Tensor:
        """A chunk of images (n, C, H, W) as the trunk takes them."""
        return trunk_of(self.trunk).enter(images, self.scale, self.shift, self.dtype)

    def forward(self, runs: list[Run], layers: Sequence[str]) -> list[Tape]:
        """See `FrozenTrunk.forward_together`."""
        return trunk_of(self.trunk).forward_together(runs, layers, self.dtype)

    def features(self, images: Tensor, layers: Sequence[str], keep: bool = False) -> tuple[list[Tensor], Tape]:
        """Features (n, C, H', W') of a chunk of images, and the way back if `keep`."""
        found: dict[str, Tensor] = {}
        (tape,) = self.forward([(self.normalized(images), holder(found), keep)], layers)
        return [found[layer] for layer in layers], tape

    def backward(self, tape: Tape, gradients: TapGradients, images: Tensor, add: Tensor | None) -> Tensor:
        """The gradient (n, C, H, W) with respect to a chunk of images, plus another one."""
        trunk = trunk_of(self.trunk)
        x = trunk.backward(tape, gradients)
        factor = None if gradients.scale is None else 1 / gradients.scale.current  # which the backward has changed
        return trunk.leave(x, images, self.scale, factor, add)


def layer_names(layers: str) -> tuple[str, ...]:
    """Layers as an operator's argument holds them: one a line."""
    return tuple(layers.split("\n")) if layers else ()


@contextlib.contextmanager
def by_hand(images: Tensor) -> Iterator[None]:
    """No graph, and every dtype as it is asked for."""
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        yield


@contextlib.contextmanager
def under_autograd() -> Iterator[None]:
    """A graph is recorded within an operator, which torch runs below autograd: for modules that are not run by hand.

    The keys that torch left out for the operator are let in again; there is no public way.
    """
    keys = torch._C.DispatchKey
    with (
        _without_saved_tensors_hooks(),
        torch.inference_mode(False),
        torch._C._SetExcludeDispatchKeyGuard(keys.AutogradFunctionality, False),
        torch._C._SetExcludeDispatchKeyGuard(keys.ADInplaceOrView, False),
        torch.enable_grad(),
    ):
        yield


@contextlib.contextmanager
def _without_saved_tensors_hooks() -> Iterator[None]:
    """Those of activation checkpointing would run the caller's whole region again for each chunk's backward."""
    autograd, hooks = torch._C._autograd, []
    while pair := autograd._top_saved_tensors_default_hooks(True):
        hooks.append(pair)
        autograd._pop_saved_tensors_default_hooks()
    try:
        yield
    finally:
        for pair in reversed(hooks):
            autograd._push_saved_tensors_default_hooks(*pair)


def wanted_gradients(output: Tensor, target: Tensor | None) -> tuple[Tensor | None, bool, bool]:
    """The target (N, 3, H, W) as an operator takes it, and whether gradients of output and target are wanted.

    The gradient of a target that stands for every sample is the sum of theirs, times upstream numbers that are not
    known yet: such a target becomes one per sample.
    """
    by_output, by_target = (
        torch.is_grad_enabled() and images is not None and images.requires_grad for images in (output, target)
    )
    if target is not None and by_target:
        target = target.expand(output.shape[0], -1, -1, -1)
    return target, by_output, by_target


def gradient_like(images: Tensor, dtype: torch.dtype, wanted: bool) -> Tensor:
    """Like the images, or empty where it is not wanted."""
    return torch.empty_like(images, dtype=dtype) if wanted else images.new_empty(0, dtype=dtype)


def no_gradients(inputs: Sequence[object]) -> list[list[None] | None]:
    """What a backward returns for arguments that no gradient flows to."""
    # A list of tensors wants a list of gradients, and so does an empty one, whatever it was to hold.
    return [
        [None] * len(value) if isinstance(value, list) and all(isinstance(x, Tensor) for x in value) else None
        for value in inputs
    ]


def times_upstream(made: Tensor, grad: Tensor, dtype: torch.dtype) -> Tensor:
    """A gradient (N, ...) times the upstream number (N) of each sample."""
    # Out of place: a second backward finds the same gradients.
    return (made * grad.view(-1, *[1] * (made.dim() - 1))).to(dtype)


def refuse_second_derivative(remedy: str) -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "create_graph: expected False, since the gradient of this loss was made in its forward and cannot be "
            f"differentiated again; {remedy} for create_graph=True"
        )


def keep_gradients(ctx, inputs, output):
    images, target = inputs[:2]
    by_output, by_target = output[2:]
    ctx.dtypes = images.dtype, None if target is None else target.dtype
    ctx.wanted = inputs[-2:]
    ctx.others = no_gradients(inputs[2:])
    ctx.mark_non_differentiable(output[1], by_output, by_target)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(by_output, by_target)


def multiply_gradients(ctx, grad, *_non_differentiable):
    if grad is None:
        return None, None, *ctx.others
    refuse_second_derivative('make the loss with engine="autograd"')
    found = [
        times_upstream(made, grad, dtype) if wanted else None
        for made, dtype, wanted in zip(ctx.saved_tensors, ctx.dtypes, ctx.wanted, strict=True)
    ]
    return *found, *ctx.others

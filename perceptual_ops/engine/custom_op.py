"""What operators over a frozen trunk share: the trunk's input, and a gradient that was computed in the forward.

Such operators are opaque to torch.compile: the network is passed by its key, and the caller's modes (autocast, which
gradients are required) as arguments. Their first two arguments are the images, their last two whether each image's
gradient is wanted. They return the loss (N), values without gradient, and the gradients with respect to the images.
Callers pass settings as objects (operator_settings.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .batching import WHERE_LARGE, chunks, default_chunk_size, default_tile_side, samples_at_a_time, tile_side
from .cuda_graph import Call
from .input_size import InputSize
from .operator_settings import OperatorSettings
from .registry import Run, Tape, trunk_by_key
from .stages import TapGradients
from .tiles import cut_of
from .trunk import Trunk, holder


@dataclass(frozen=True)
class TrunkInput(OperatorSettings):
    """The input of a trunk: images resized to `input_size`, times scale plus shift, in the dtype of the arithmetic.

    Attributes:
        trunk_key: See `FrozenTrunk`.
        scale, shift: (1, C, 1, 1), or (1, 1, 1, 1) for all channels.
        dtype: Of the arithmetic.
        chunk_size: Samples that go through the trunk at a time; 0: see `default_chunk_size`.
        input_size: The size.
        cuda_graphs: Whether calls are captured as CUDA graphs.
        tile_size: See `batching.tile_side`.
    """

    trunk_key: str
    scale: Tensor
    shift: Tensor
    dtype: torch.dtype
    chunk_size: int
    input_size: InputSize
    cuda_graphs: bool = False
    tile_size: int = WHERE_LARGE

    def run(self, call: Call, *arguments: Any) -> tuple[Tensor, ...]:
        """call(*arguments), the arguments of an operator; as a CUDA graph if those are on."""
        return trunk_by_key(self.trunk_key).graphs.run(call, *arguments) if self.cuda_graphs else call(*arguments)

    @property
    def wide(self) -> torch.dtype:
        """The dtype of losses and image gradients."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def chunks(self, images: Tensor) -> list[slice]:
        return chunks(images.shape[0], self.samples_at_a_time(images))

    def samples_at_a_time(self, images: Tensor) -> int:
        """By the size of the trunk's input."""
        if self.chunk_size:
            return self.chunk_size
        has_small_maps = trunk_by_key(self.trunk_key).has_small_maps
        if self.input_size.is_given:
            height, width = self.input_size.height, self.input_size.width
            return default_chunk_size(height, width, self.dtype, images.device.type, has_small_maps)
        return samples_at_a_time(images, self.dtype, has_small_maps)

    def tile_side(self, images: Tensor, is_nested: bool = False) -> int | None:
        """The side of the tiles that run through all layers; None: images run whole."""
        return self.tile_side_of_chain(images, is_nested) if isinstance(trunk_by_key(self.trunk_key), Trunk) else None

    def tile_side_of_chain(self, images: Tensor, is_nested: bool = False) -> int | None:
        """`tile_side` of a trunk that is known to be a chain; torch.compile traces it."""
        if self.input_size.is_given:
            return None
        return tile_side(self.tile_size, images.shape[2], images.shape[3], self.dtype, images.device.type, is_nested)

    def tiles(self, images: Tensor, layers: Sequence[str]) -> tuple[str, int] | None:
        """The pooling up to which large images run through a chain in tiles, and the tiles' side; None: no tiles."""
        trunk = trunk_by_key(self.trunk_key)
        side = default_tile_side(images.shape[2], images.shape[3], self.dtype, images.device.type)
        cut = cut_of(trunk.network.layers, layers) if side and isinstance(trunk, Trunk) else None
        return (cut, side) if cut and side else None

    def normalized(self, images: Tensor) -> Tensor:
        """A chunk of images (n, C, H, W) as the trunk takes them."""
        return trunk_by_key(self.trunk_key).enter(self.input_size.entered(images), self.scale, self.shift, self.dtype)

    def forward(self, runs: list[Run], layers: Sequence[str]) -> list[Tape]:
        """See `FrozenTrunk.forward_together`."""
        return trunk_by_key(self.trunk_key).forward_together(runs, layers, self.dtype)

    def features(self, images: Tensor, layers: Sequence[str], keep: bool = False) -> tuple[list[Tensor], Tape]:
        """Features (n, C, H', W') of a chunk of images, and their tape if `keep`."""
        maps: dict[str, Tensor] = {}
        (tape,) = self.forward([(self.normalized(images), holder(maps), keep)], layers)
        return [maps[layer] for layer in layers], tape

    def backward(self, tape: Tape, gradients: TapGradients, images: Tensor, add: Tensor | None) -> Tensor:
        """The gradient (n, C, H, W) with respect to a chunk of images, plus another one."""
        trunk = trunk_by_key(self.trunk_key)
        x = trunk.backward(tape, gradients)
        factor = None if gradients.scale is None else 1 / gradients.scale.current  # which the backward has changed
        if not self.input_size.is_given:
            return trunk.leave(x, images, self.scale, factor, add)

        def entered_gradient(entered: Tensor) -> Tensor:
            return trunk.leave(x, entered, self.scale, factor, None)

        gradient = self.input_size.backward(images.to(self.wide), entered_gradient)
        return gradient if add is None else gradient.add_(add)


def wanted_gradients(output: Tensor, target: Tensor | None) -> tuple[Tensor | None, bool, bool]:
    """The target (N, C, ...) as an operator takes it, and whether gradients of output and target are wanted.

    The gradient of a target shared by all samples is a sum of theirs weighted by upstream gradients, which are unknown
    in the forward: such a target is expanded to one per sample.
    """
    by_output, by_target = (
        torch.is_grad_enabled() and images is not None and images.requires_grad for images in (output, target)
    )
    if target is not None and by_target:
        target = target.expand(output.shape[0], *target.shape[1:])
    return target, by_output, by_target


def gradient_like(images: Tensor, dtype: torch.dtype, wanted: bool) -> Tensor:
    """A tensor like the images, or an empty one where it is not wanted."""
    return torch.empty_like(images, dtype=dtype) if wanted else images.new_empty(0, dtype=dtype)


def chunks_in_parts(
    trunk_input: TrunkInput, output: Tensor, *gradients: Tensor
) -> Iterator[tuple[slice, tuple[Tensor | None, ...]]]:
    """The rows of each chunk, and those rows of gradients (N, ...) that are accumulated tile by tile.

    The gradients are zeroed first; None for those that are not wanted, which are empty.
    """
    for gradient in gradients:
        gradient.zero_()
    for rows in trunk_input.chunks(output):
        yield rows, tuple(gradient[rows] if gradient.numel() else None for gradient in gradients)


def written(made: Tensor, rows: slice, gradient: Tensor | None) -> Tensor:  # (N, ...), (n, ...)
    """`made` with the gradient of some rows written; the gradient itself if it has all rows and the same strides."""
    if gradient is None:
        return made
    if (gradient.shape, gradient.stride(), gradient.dtype) == (made.shape, made.stride(), made.dtype):
        return gradient
    made[rows].copy_(gradient)
    return made


def joined(parts: list[Tensor], dim: int = 0) -> Tensor:
    """The results of chunks, concatenated."""
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0]


def empty_results(
    output: Tensor, target: Tensor, rows: int, dtype: torch.dtype, wanted: Iterable[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The results of a fake kernel: loss (N), values (rows, N), and the image gradients that are wanted."""
    by_output, by_target = wanted
    return (
        output.new_empty(output.shape[0], dtype=dtype),
        output.new_empty((rows, output.shape[0]), dtype=dtype),
        gradient_like(output, dtype, by_output),
        gradient_like(target, dtype, by_target),
    )


def no_gradients(inputs: Sequence[object]) -> list[list[None] | None]:
    """What a backward returns for non-differentiable arguments."""
    # A list of tensors takes a list of gradients, and so does any empty list.
    return [
        [None] * len(value) if isinstance(value, list) and all(isinstance(x, Tensor) for x in value) else None
        for value in inputs
    ]


def times_upstream(made: Tensor, grad: Tensor, dtype: torch.dtype) -> Tensor:
    """A gradient (N, ...) times the upstream gradient (N) of each sample's loss."""
    # Out of place: a second backward needs the same gradients.
    return (made * grad.view(-1, *[1] * (made.dim() - 1))).to(dtype)


def refuse_second_derivative(remedy: str) -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "create_graph: expected False, since the gradient of this loss was made in its forward and cannot be "
            f"differentiated again; {remedy} for create_graph=True"
        )


def keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    images, target = inputs[:2]
    by_output, by_target = output[2:]
    ctx.dtypes = images.dtype, None if target is None else target.dtype
    ctx.wanted = inputs[-2:]
    ctx.others = no_gradients(inputs[2:])
    ctx.mark_non_differentiable(output[1], by_output, by_target)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(by_output, by_target)


def multiply_gradients(ctx: Any, grad: Tensor | None, *_non_differentiable: object) -> tuple[Any, ...]:
    if grad is None:
        return None, None, *ctx.others
    refuse_second_derivative('make the loss with engine="autograd"')
    gradients = [
        times_upstream(made, grad, dtype) if wanted else None
        for made, dtype, wanted in zip(ctx.saved_tensors, ctx.dtypes, ctx.wanted, strict=True)
    ]
    return *gradients, *ctx.others

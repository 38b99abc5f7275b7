"""Trained networks and their files, which hold weights and no code."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..engine.batching import auto_tile_side
from ..files import write_whole
from ..names import TileSize
from .model_file import (
    BY_NAME,
    LARGEST,
    MAX_BATCH,
    ModelFacts,
    ModelKind,
    blank_network,
    check_weights,
    encoded,
    read_model_file,
    side_taken,
    weights_of,
)
from .own_network import check_shape, least_multiple, module_by_path
from .tiled_network import Progress, TiledNetwork


@dataclass(frozen=True)
class Model:
    """A trained network.

    Attributes:
        kind: "style" or "super-resolution".
        scale: How many times larger its results are.
        multiple: The sides of its input have to be multiples of so many pixels.
        network: Images (N, 3, H, W) in [0, 1] -> (N, 3, scale H, scale W); a little may lie beyond [0, 1].
        name: What errors call it: its file, if it came from one.
    """

    kind: ModelKind
    scale: int
    multiple: int
    network: Callable[[Tensor], Tensor]
    name: str = "the model"

    @torch.no_grad()
    def __call__(self, images: Tensor, tile_size: TileSize | None = None, progress: Progress | None = None) -> Tensor:
        """Images (N, 3, H, W) in [0, 1], on the model's device -> (N, 3, scale H, scale W) in [0, 1].

        Sides that the network cannot take are extended by their last pixels, and the result is cut.

        Args:
            tile_size: Larger images go through the network in tiles of about so many pixels on a side, and what these
                read of their neighbours; "auto": 768 of the result on a CPU, 1448 elsewhere. The result is the same but
                for rounding. A network with k instance normalisations, whose statistics are of the whole image, takes
                k + 1 passes: `StyleNet` about ten times as long. None: images go whole.
            progress: Called after each tile with how much work is done, and of how much.

        Raises:
            ValueError: A side is too large, it is no batch of images, or the result holds NaN or infinity. Of
                `tile_side`.
        """
        if images.dim() != 4 or images.shape[1] != 3 or not 1 <= images.shape[0] <= MAX_BATCH:
            raise ValueError(f"images: expected (1 to {MAX_BATCH}, 3, H, W), got {tuple(images.shape)}")
        height, width = images.shape[2:]
        if min(height, width) < 1 or (tile_size is None and max(height, width) > LARGEST):
            raise ValueError(
                f"expected images with sides of 1 to {LARGEST} pixels, got {width} x {height}; choose a smaller size "
                f"(--size) or tiles (--tile)"
            )
        bottom, right = (side_taken(side, self.multiple) - side for side in (height, width))
        padded = F.pad(images, (0, right, 0, bottom), mode="replicate") if bottom or right else images
        side = None if tile_size is None else self.tile_side(tile_size)
        whole = side is None or max(round(height / side), round(width / side)) <= 1
        result = self.network(padded.clone()) if side is None or whole else self._tiled(padded, side, progress)
        result = result[..., : self.scale * height, : self.scale * width]
        if not all(x.isfinite() for x in result.aminmax()):  # clamped, it would be a black or white picture
            raise ValueError(
                f"expected numbers from {self.name}, got NaN or infinity; its weights are too large for such images, "
                f"train it anew"
            )
        return result.clamp(0, 1) if whole else result.clamp_(0, 1)  # a network may give back what it was given

    def tile_side(self, tile_size: int | str) -> int:
        """The side of a tile in pixels, see `__call__`.

        Raises:
            ValueError: It is less than the network reads around a pixel, or the network cannot run in tiles: its result
                depends on the whole image other than by instance normalisation, or not in the same way everywhere.
        """
        try:
            tiled = self._tiled
        except ValueError as error:
            raise ValueError(f"{self.name}: expected a network that can run in tiles, but {error}") from error
        if tile_size == "auto":
            return max(tiled.least, auto_tile_side(torch.float32, self._device.type) // self.scale)
        if not isinstance(tile_size, int) or tile_size < tiled.least:
            raise ValueError(
                f'tile_size: expected "auto" or at least {tiled.least} pixels for {self.name}, which reads so far '
                f"around each; got {tile_size!r}"
            )
        return tile_size

    @cached_property
    def _tiled(self) -> TiledNetwork:
        if not isinstance(self.network, nn.Module):
            raise ValueError("it is no module")
        return TiledNetwork(self.network, self.scale, self.multiple)

    @property
    def _device(self) -> torch.device:
        tensors = self.network.parameters() if isinstance(self.network, nn.Module) else ()
        return next((tensor.device for tensor in tensors), torch.device("cpu"))


def save_model(
    path: str | os.PathLike[str], network: nn.Module, kind: ModelKind, scale: int = 1, *, source: str | None = None
) -> None:
    """Writes a network for any batch and any size of images, as a safetensors file.

    Args:
        path: With suffix .safetensors.
        network: (N, 3, H, W) -> (N, 3, scale H, scale W); left as it is.
        kind: "style" or "super-resolution".
        scale: How many times larger its results are.
        source: What makes a network of your own, package.module:name. It is noted in the file, to be compared with
            what `load_model` is given. None: the network's class.

    Raises:
        ValueError: The network is not for any size, or its weights cannot be written.
        OSError: As `write_whole`.
    """
    weights = weights_of(network)
    arguments = _arguments(network, weights)
    if arguments is not None:
        facts = ModelFacts(kind, scale, 1, type(network).__name__, arguments)
    else:
        source = source or f"{type(network).__module__}:{type(network).__qualname__}"
        facts = ModelFacts(kind, scale, least_multiple(network, scale), source, {})
    write_whole(path, encoded(weights, facts))


def _arguments(network: nn.Module, weights: dict[str, Tensor]) -> dict[str, int] | None:
    """What one of our networks was made with; None of any other, and of one of ours that was changed since."""
    name = type(network).__name__
    if BY_NAME.get(name) is not type(network):
        return None
    arguments = dict(network.arguments)  # type: ignore[arg-type]  # a dict, as each network in the table has it
    try:
        check_weights(weights, blank_network(ModelFacts("style", arguments.get("scale", 1), 1, name, arguments)))
    except ValueError:
        return None
    return arguments


def load_model(
    path: str | os.PathLike[str], device: torch.device | str = "cpu", network: str | nn.Module | None = None
) -> Model:
    """A network that `save_model` wrote. Nothing in the file is executed, and nothing that it names is imported.

    Args:
        path: The file.
        device: Where the network is to run.
        network: What the weights are for, if that is a network of your own: package.module:name, as the file names it,
            or a module, of which a copy is taken. None: one of ours, as the file says.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is no model of these recipes, or of another network.
        ModuleNotFoundError: safetensors or the package of the network is not installed.
    """
    name = os.fspath(path)
    facts, weights = read_model_file(path)
    module = _unfilled(name, facts, network)
    try:
        check_weights(weights, module)
        if facts.of_ones_own:
            module.load_state_dict(weights)
            check_shape(module, (1, 3, *2 * (side_taken(1, facts.multiple),)), facts.scale)
        else:  # copies: a file that changes later must not change the network
            module.load_state_dict({key: value.float().clone() for key, value in weights.items()}, assign=True)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{name}: expected a model of {facts.network}, this file is none ({error})") from error
    return Model(facts.kind, facts.scale, facts.multiple, module.to(device).eval().requires_grad_(False), name)


def _unfilled(name: str, facts: ModelFacts, network: str | nn.Module | None) -> nn.Module:
    """The module that the weights of the file `name` go into."""
    if not facts.of_ones_own:
        if network is not None:
            raise ValueError(f"network: expected none, as {name} is a model of {facts.network}; leave it out")
        return blank_network(facts)
    if network is None:
        raise ValueError(
            f"{name}: expected to be told the network too, as a model file brings no code; it names {facts.network}, "
            f"so pass network={facts.network!r}, or --network {facts.network}, if you trust that"
        )
    if isinstance(network, nn.Module):
        return copy.deepcopy(network).cpu()
    if network != facts.network:
        raise ValueError(f"network: expected {facts.network}, which {name} names, got {network!r}")
    return module_by_path(network)

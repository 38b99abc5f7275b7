"""How images enter a network: their channels, their range, and the map to what the network takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import _checks as checks
from ..networks import FeatureNetwork, ModuleFeatures


@dataclass(frozen=True)
class Channels:
    """How many channels the images of a network have.

    Attributes:
        count: None: any number.
        reason: What settles the count; empty where it is a guess, which the network may prove wrong.
        is_image_network: Whether it takes images alone; your own module may take clips.
    """

    count: int | None
    reason: str = ""
    is_image_network: bool = False


def channels_of(network: FeatureNetwork | ModuleFeatures, *numbers: Sequence[float] | None) -> Channels:
    """The channels of the images that a network takes.

    Args:
        network: Your own module probably takes what its first convolution does, unless it prepares images before.
        numbers: mean and std. As many as there are channels settle it for your own module; one serves every channel.
    """
    if isinstance(network, FeatureNetwork):
        return Channels(3, f"for {network.name}", is_image_network=True)
    counts = [len(values) for values in numbers if values is not None and len(values) > 1]
    if counts:
        return Channels(counts[0], "as mean and std have numbers", network.is_image_network)
    return Channels(network.channels, is_image_network=network.is_image_network)


def check_images(
    name: str, images: object, channels: Channels, input_range: tuple[float, float], clips: bool = False
) -> Tensor:
    """A batch (N, C, H, W) as a network of `channels` takes it: grey is repeated where it takes three.

    Your own module may take clips (N, C, D, H, W). Of a network of images they are taken if `clips`.
    """
    count, clips = channels.count, clips or not channels.is_image_network
    if not isinstance(images, Tensor):
        raise TypeError(f"{name}: expected a tensor of images (N, {count or 'C'}, H, W), got {type(images).__name__}")
    if images.dtype not in checks.DTYPES:
        raise TypeError(
            f"{name}: expected a floating-point tensor in the range {input_range}, got {images.dtype}; "
            f"convert 8-bit images by images.float() / 255"
        )
    is_batch, is_clip = images.dim() == 4, clips and images.dim() == 5
    takes_grey = is_batch or (is_clip and channels.is_image_network)
    if takes_grey and count == 3 and images.shape[1] == 1:
        return images.expand(-1, 3, *images.shape[2:])
    # Not `in (None, count)`, which is false of a symbolic size.
    if (is_batch or is_clip) and (not channels.reason or images.shape[1] == count):
        return images
    shape = f"(N, {count or 'C'}, H, W)"
    if count == 3:
        shape += ", or (N, 1, H, W) for grey"
    if is_clip or (clips and channels.is_image_network):  # your own module may take them
        shape += f", or a clip (N, {count or 'C'}, T, H, W)"
    reason = f" {channels.reason}" if images.dim() == 4 else ""
    remedy = f"; of frames first pass {name}.transpose(1, 2)" if is_clip and images.shape[2] == count else ""
    raise ValueError(f"{name}: expected shape {shape}{reason}; got {tuple(images.shape)}{remedy}")


def checked_range(name: str, input_range: object) -> tuple[float, float]:
    """Values of black and white."""
    try:
        if isinstance(input_range, str):
            raise TypeError
        low, high = (checks.check_number(name, float(value)) for value in input_range)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected two numbers (low, high), got {input_range!r}") from None
    if not low < high:
        raise ValueError(f"{name}: expected low < high, got {input_range!r}")
    return low, high


def checked_numbers(name: str, values: Iterable[float] | None) -> list[float] | None:
    """mean or std, as a list."""
    if values is None:
        return None
    try:
        numbers = [checks.check_number(name, float(value)) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if not numbers:
        raise ValueError(f"{name}: expected finite numbers, one per channel or one for all, got {values!r}")
    return numbers


def for_each_channel(name: str, numbers: list[float] | None, default: float, channels: int | None) -> list[float]:
    """A number for each channel, or a single one where the channels are not known."""
    numbers, count = numbers or [default], channels or 1
    if len(numbers) not in (1, count):
        raise ValueError(f"{name}: expected {count} numbers, one per channel, or one for all; got {numbers!r}")
    return numbers * count if len(numbers) == 1 else numbers


def input_map(
    input_range: tuple[float, float], mean: Sequence[float], std: Sequence[float]
) -> tuple[Tensor, Tensor]:  # (1, C, 1, 1) each, fp64 on the CPU
    """Scale and shift from input_range to [0, 1] to the network's input."""
    if min(std) <= 0:
        raise ValueError(f"std: expected numbers above 0, got {std!r}")
    low, high = input_range
    scale = [1 / ((high - low) * deviation) for deviation in std]
    shift = [-low * factor - center / deviation for factor, center, deviation in zip(scale, mean, std, strict=True)]
    tensors = [torch.tensor(values, dtype=torch.float64, device="cpu").view(1, -1, 1, 1) for values in (scale, shift)]
    return tensors[0], tensors[1]

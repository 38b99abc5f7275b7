"""What every loss over a frozen network shares: where the network lives, and the way of an image into it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .. import _checks as checks
from .. import ops
from ..networks import FeatureNetwork, ModuleFeatures
from ..networks.trunk import Trunk
from .lean import trunk_features

if TYPE_CHECKING:
    from typing_extensions import Self

ENGINES = ("lean", "autograd")


class FrozenLoss(nn.Module):
    """A loss whose network is part of it and yet none of its parameters, buffers or submodules.

    An optimizer, a checkpoint or DistributedDataParallel over a model that holds the loss sees no tensor of it. The
    network moves and changes dtype with the module (`.to`, `.cuda`, `.bfloat16`), and copies and pickles with it. What
    is kept beside it (normalisation, cached targets) moves too but stays fp32.

    Args:
        network: The frozen trunk.
        mean, std: Normalisation of an image in [0, 1], or None where the network takes that as it is.
        input_range: Values of black and white in the images.
        compute_dtype: dtype of the arithmetic of an fp32 trunk; None follows autocast, and without it the trunk's own.
        chunk_size: Samples that go through the network at a time; None: see `PerceptualLoss`.
        engine: "lean" or "autograd", see `PerceptualLoss`.
        backend: "auto", "native" or "reference", as in `perceptual_ops.ops`.
    """

    _network: FeatureNetwork | ModuleFeatures

    def __init__(
        self,
        network: FeatureNetwork | ModuleFeatures,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        input_range: tuple[float, float],
        compute_dtype: torch.dtype | None,
        chunk_size: int | None,
        engine: str,
        backend: str,
    ) -> None:
        super().__init__()
        checks.check_choice("engine", engine, ENGINES)
        checks.check_choice("backend", backend, checks.BACKENDS)
        if compute_dtype is not None and compute_dtype not in checks.DTYPES[:3]:
            raise ValueError(f"compute_dtype: expected None, torch.float32, float16 or bfloat16, got {compute_dtype!r}")
        if chunk_size is not None and (type(chunk_size) is not int or chunk_size < 1):
            raise ValueError(f"chunk_size: expected None or a whole number above 0, got {chunk_size!r}")
        self.input_range = checked_range(input_range)
        self.compute_dtype = compute_dtype
        self.chunk_size = chunk_size
        self.engine = engine
        self.backend = backend
        # Past nn.Module.__setattr__, which would register the network as a submodule.
        object.__setattr__(self, "_network", network)
        self._trunk = Trunk(network) if isinstance(network, FeatureNetwork) and network.is_chain else None
        scale, shift = _input_map(self.input_range, _three_numbers("mean", mean, 0.0), _three_numbers("std", std, 1.0))
        self._constants: dict[str, list[Tensor]] = {}
        self._kept: dict[str, list[Tensor]] = {}
        self._keep_constants("input", [scale, shift])

    def _keep_constants(self, name: str, tensors: list[Tensor]) -> None:
        """Keeps fp64 tensors of the CPU, and as `_kept[name]` what goes with the network: on its device, in fp32."""
        self._constants[name] = tensors
        device = next((parameter.device for parameter in self._network.parameters()), tensors[0].device)
        self._kept[name] = self._served(tensors, device)

    def _served(self, tensors: list[Tensor], device: torch.device) -> list[Tensor]:
        dtype = next((p.dtype for p in self._network.parameters() if p.is_floating_point()), torch.float32)
        return [tensor.to(device, torch.float64 if dtype == torch.float64 else torch.float32) for tensor in tensors]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        with torch.inference_mode(False):  # or what is moved there could not serve in training later
            super()._apply(fn, recurse)
            self._network._apply(fn)
            if self._trunk:
                self._trunk.forget()
            device = fn(self._kept["input"][0]).device
            moved = {name: [tensor.to(device) for tensor in tensors] for name, tensors in self._kept.items()}
            self._kept = moved | {name: self._served(tensors, device) for name, tensors in self._constants.items()}
        return self

    @property
    def _device(self) -> torch.device:
        return self._kept["input"][0].device

    def _images(self, name: str, images: object, layers: Iterable[str]) -> Tensor:
        """Checks a batch of images (N, 3, H, W) or (N, 1, H, W), and repeats grey to three channels."""
        if not isinstance(images, Tensor):
            raise TypeError(f"{name}: expected a tensor of images (N, 3, H, W), got {type(images).__name__}")
        if images.dtype not in checks.DTYPES:
            raise TypeError(
                f"{name}: expected a floating-point tensor in the range {self.input_range}, got {images.dtype}; "
                f"convert 8-bit images by images.float() / 255"
            )
        if images.dim() != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"{name}: expected shape (N, 3, H, W), or (N, 1, H, W) for grey; got {tuple(images.shape)}"
            )
        if images.device != self._device:
            raise ValueError(
                f"{name}: expected images on {self._device}, where the loss is; got {images.device}; "
                f"move one of them by .to()"
            )
        smallest = self._network.smallest_size(layers) if isinstance(self._network, FeatureNetwork) else 1
        height, width = images.shape[2:]
        if height < smallest or width < smallest:
            raise ValueError(
                f"{name}: expected at least {smallest} x {smallest} pixels for {self._network.name}, "
                f"got {height} x {width}"
            )
        return images.expand(-1, 3, -1, -1)

    def _is_lean(self, **images: Tensor | None) -> bool:
        """Whether the lean engine runs for the images; raises where it is asked for what it cannot give."""
        given = {name: tensor for name, tensor in images.items() if tensor is not None}
        lean = self._trunk is not None and self.engine == "lean"
        if not lean or not ops.use_native(list(given.values()), self.backend, forward_mode=True):
            return False
        if not torch.compiler.is_compiling():
            for name, tensor in given.items():
                if ops.has_tangent(tensor):
                    raise RuntimeError(
                        f"{name}: expected no forward-mode tangent, since this loss makes its gradient in its forward; "
                        f'make it with engine="autograd"'
                    )
        return True

    def _entry(self, images: Tensor) -> tuple[str, Tensor, Tensor, torch.dtype, int]:
        """How images enter the lean engine, as the arguments of its operators."""
        assert self._trunk is not None
        dtype = self._trunk_dtype()
        if self.compute_dtype is not None:
            dtype = self.compute_dtype
        elif dtype != torch.float64 and torch.is_autocast_enabled(images.device.type):
            dtype = torch.get_autocast_dtype(images.device.type)
        scale, shift = self._kept["input"]
        return self._trunk.key, scale, shift, dtype, self.chunk_size or 0

    def _target_features(self, images: Tensor, layers: Sequence[str]) -> list[Tensor]:
        """Features of targets through which no gradient flows: the pass keeps nothing."""
        with torch.no_grad():
            if self._is_lean(images=images):
                return trunk_features(images, *self._entry(images), "\n".join(layers))
            size = self.chunk_size or max(images.shape[0], 1)
            parts = [self._features(chunk, layers) for chunk in images.split(size)]
            return [torch.cat(maps) if len(maps) > 1 else maps[0] for maps in zip(*parts, strict=True)]

    def _trunk_dtype(self) -> torch.dtype:
        """The dtype of the network."""
        trunk = next((p.dtype for p in self._network.parameters() if p.is_floating_point()), torch.float32)
        if self.compute_dtype not in (None, trunk) and trunk != torch.float32:
            raise ValueError(
                f"compute_dtype: expected None or {trunk}, the dtype the network was moved to; got {self.compute_dtype}"
            )
        return trunk

    def _features(self, images: Tensor, layers: Sequence[str]) -> list[Tensor]:
        """Images (N, 3, H, W) in input_range -> the features of each layer."""
        trunk = self._trunk_dtype()
        wide = torch.float64 if trunk == torch.float64 else torch.float32
        scale, shift = (tensor.to(wide) for tensor in self._kept["input"])
        with self._precision(images.device.type):
            features = self._network.features(torch.addcmul(shift, images.to(wide), scale).to(trunk), layers)
        for layer in layers:
            if features[layer].shape[0] != images.shape[0]:
                raise ValueError(
                    f"layer {layer!r}: expected features of each of the {images.shape[0]} images, "
                    f"got {features[layer].shape[0]}"
                )
        # Under autocast the layers of a module may differ in dtype.
        common = reduce(torch.promote_types, (features[layer].dtype for layer in layers))
        return [features[layer].to(common) for layer in layers]

    def _precision(self, device_type: str) -> contextlib.AbstractContextManager:
        if self.compute_dtype is None:
            return contextlib.nullcontext()
        if self.compute_dtype == torch.float32:
            return torch.autocast(device_type, enabled=False)
        return torch.autocast(device_type, dtype=self.compute_dtype)


def checked_range(input_range: Iterable[float]) -> tuple[float, float]:
    try:
        low, high = (checks.check_number("input_range", float(value)) for value in input_range)
    except (TypeError, ValueError):
        raise ValueError(f"input_range: expected two numbers (low, high), got {input_range!r}") from None
    if not low < high:
        raise ValueError(f"input_range: expected low < high, got {input_range!r}")
    return low, high


def _three_numbers(name: str, values: Sequence[float] | None, default: float) -> list[float]:
    if values is None:
        return [default] * 3
    try:
        numbers = [checks.check_number(name, float(value)) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 3:
        raise ValueError(f"{name}: expected three finite numbers, one per channel, got {values!r}")
    return numbers


def _input_map(input_range: tuple[float, float], mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Scale and shift (1, 3, 1, 1), from input_range to [0, 1] to the network's input."""
    if min(std) <= 0:
        raise ValueError(f"std: expected numbers above 0, got {std!r}")
    low, high = input_range
    scale = [1 / ((high - low) * deviation) for deviation in std]
    shift = [-low * factor - center / deviation for factor, center, deviation in zip(scale, mean, std, strict=True)]
    with torch.inference_mode(False):
        tensors = [
            torch.tensor(values, dtype=torch.float64, device="cpu").view(1, 3, 1, 1) for values in (scale, shift)
        ]
    return tensors[0], tensors[1]

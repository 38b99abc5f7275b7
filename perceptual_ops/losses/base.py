"""What every loss over a frozen network shares: where the network lives, and the way of an image into it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from typing_extensions import Never, Unpack

from .. import ops
from .._autocast import autocast, autocast_dtype
from .._settings import Fixed, fixed, setting
from ..engine.batching import AUTO, WHERE_LARGE, chunks
from ..engine.cuda_graph import may_capture
from ..engine.custom_op import TrunkInput
from ..engine.input_size import InputSize
from ..engine.module_trunk import ModuleTrunk, per_channel
from ..engine.perceptual_op import trunk_features
from ..engine.registry import kind_of, prepared
from ..engine.trunk import Trunk
from ..names import Reduction
from ..networks import FeatureNetwork, ModuleFeatures
from .image_input import channels_of, check_images, checked_numbers, checked_range, for_each_channel, input_map
from .options import EngineOptions, EngineSettings, takes_engine_options
from .samples import Samples, checked_list

if TYPE_CHECKING:
    from typing_extensions import Self


class FrozenLoss(EngineSettings):
    """A loss whose network is part of it and yet none of its parameters, buffers or submodules.

    An optimizer, a checkpoint or DistributedDataParallel over a model that holds the loss sees no tensor of it. The
    network moves and changes dtype with the module (`.to`, `.cuda`, `.bfloat16`), and copies and pickles with it. What
    is kept beside it (normalisation, cached targets) moves too but stays fp32.

    Drop-ins and recipes that need more of it than the loss of images use what has no underscore: `frozen_network`,
    `network_layers`, `network_dtype`, `device`, `identity`, `checked_images`, `checked_parts`, `check_size`,
    `features`, `target_features`, `runs_lean`, `trunk_input`.

    Args:
        network: The frozen trunk.
        mean, std: Normalisation of an image in [0, 1], a number for each channel or one for all; None where the
            network takes that as it is.
        input_range: Values of black and white in the images.
        options: See `EngineOptions`.
    """

    _network: FeatureNetwork | ModuleFeatures
    reduction: Reduction

    input_range: tuple[float, float] = setting(
        "input_range", checked_range, changed=lambda loss: loss._keep_input_map()
    )
    # Not to be read: weights changed in place would go unnoticed.
    network: Fixed[Never] = fixed("network", "_given_network")
    weights: Fixed[Never] = fixed("weights")
    mean: Fixed[list[float]] = fixed("mean")
    std: Fixed[list[float]] = fixed("std")

    @takes_engine_options
    def __init__(
        self,
        network: FeatureNetwork | ModuleFeatures,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        input_range: tuple[float, float],
        **options: Unpack[EngineOptions],
    ) -> None:
        super().__init__(**options)
        self.input_range = input_range
        # Past nn.Module.__setattr__, which would register the network as a submodule.
        object.__setattr__(self, "_network", network)
        self._trunk: Trunk | ModuleTrunk = (
            Trunk(network) if isinstance(network, FeatureNetwork) and network.is_chain else ModuleTrunk(network)
        )
        centers, deviations = checked_numbers("mean", mean), checked_numbers("std", std)
        self._channels = channels_of(network, centers, deviations)
        count = self._channels.count if self._channels.reason else None
        self._mean = for_each_channel("mean", centers, 0.0, count)
        self._std = for_each_channel("std", deviations, 1.0, count)
        self._constants: dict[str, list[Tensor]] = {}
        self._kept: dict[str, list[Tensor]] = {}
        self._keep_input_map()

    def _keep_input_map(self) -> None:
        with torch.inference_mode(False):
            self._keep_constants("input", [*input_map(self._range_of_input(), self._mean, self._std)])

    def _range_of_input(self) -> tuple[float, float]:
        """The range of what `features` and the lean engine are given."""
        return self.input_range

    def range_map(self) -> tuple[float, float]:
        """Factor and shift by which images in input_range are brought to what the lean engine is given."""
        (low, high), (least, most) = self.input_range, self._range_of_input()
        factor = (most - least) / (high - low)
        return factor, least - factor * low

    def _keep_constants(self, name: str, tensors: list[Tensor]) -> None:
        """Keeps fp64 tensors of the CPU, and as `_kept[name]` what goes with the network: on its device, in fp32."""
        with torch.inference_mode(False):  # or they could not serve in training later
            self._constants[name] = [x.clone() if x.is_inference() else x for x in tensors]
            self._kept[name] = self._served(self._constants[name], kind_of(self._network)[1])

    def _served(self, tensors: list[Tensor], device: torch.device) -> list[Tensor]:
        dtype, _ = kind_of(self._network)
        return [tensor.to(device, torch.float64 if dtype == torch.float64 else torch.float32) for tensor in tensors]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        with torch.inference_mode(False):  # or what is moved there could not serve in training later
            super()._apply(fn, recurse)
            changed = False

            def noted(x: Tensor) -> Tensor:
                nonlocal changed
                result = fn(x)
                changed = changed or result is not x
                return result

            self._network._apply(noted)
            if changed:
                self._trunk.forget()
            device = fn(self._kept["input"][0]).device
            moved = {name: [tensor.to(device) for tensor in tensors] for name, tensors in self._kept.items()}
            self._kept = moved | {name: self._served(tensors, device) for name, tensors in self._constants.items()}
        return self

    @property
    def frozen_network(self) -> FeatureNetwork | ModuleFeatures:
        """The network, to be read: weights changed in place would go unnoticed, see `replace_network_weights`."""
        return self._network

    def extra_repr(self) -> str:
        """The network, and how it is run."""
        lean = "chain" if isinstance(self._trunk, Trunk) else "module"
        return f"network={self._trunk.name} ({lean if self.engine == 'lean' else self.engine})"

    def identity(self) -> dict[str, object]:
        """What the numbers of the loss depend on, by part: losses with equal ones give the same."""
        name, _, weights = self._trunk.content().split("/")
        settings = [tensor.tolist() for tensor in self._constants["input"]], self.compute_dtype
        return {"architecture": name, "weights": weights, "settings": settings}

    @property
    def network_layers(self) -> list[str]:
        """The layers whose features the loss compares, each once."""
        raise NotImplementedError

    def replace_network_weights(self, state: Mapping[str, Tensor]) -> None:
        """Makes the tensors of a state dict of the network its own."""
        self._network.load_state_dict(state)
        self._trunk.forget()

    @property
    def device(self) -> torch.device:
        """Where the network is, and images have to be."""
        return self._kept["input"][0].device

    @property
    def _network_size(self) -> tuple[int, int] | None:
        """The (height, width) in which all images enter the network; None: as they come."""
        return None

    def checked_images(self, name: str, images: object, layers: Iterable[str], clips: bool = False) -> Tensor:
        """Checks a batch of images (N, C, H, W) of the network's channels; where it takes three, grey is repeated.

        Args:
            clips: Whether a network of images takes clips (N, C, T, H, W), too: see `samples.of_samples`.
        """
        images = self.checked_parts(name, images, clips)
        if self.is_clip(images) and images.shape[2] == 0:
            raise ValueError(f"{name}: expected a clip of at least one frame, got {tuple(images.shape)}")
        self.check_size(name, images.shape, layers)
        return images

    def checked_parts(self, name: str, images: object, clips: bool = False) -> Tensor:
        """As `checked_images`, of what may be a part of images or clips: rows and frames are not counted."""
        images = check_images(name, images, self._channels, self.input_range, clips)
        if images.device != self.device:
            raise ValueError(
                f"{name}: expected images on {self.device}, where the loss is; got {images.device}; "
                f"move one of them by .to()"
            )
        return images

    def check_size(self, name: str, shape: torch.Size, layers: Iterable[str]) -> None:
        """Refuses images (..., H, W) that are too small for some layers of the network."""
        smallest = self._network.smallest_size(layers) if isinstance(self._network, FeatureNetwork) else 1
        height, width = self._network_size or shape[-2:]
        if height < smallest or width < smallest:
            raise ValueError(
                f"{name}: expected at least {smallest} x {smallest} pixels for {self._network.name}, "
                f"got {height} x {width}"
            )

    def checked_samples(self, name: str, images: object, layers: Iterable[str]) -> Samples:
        """Checks a batch of images or clips as `checked_images`, or a list of them, each alone and of any size."""
        check = partial(self.checked_images, layers=layers, clips=True)
        return checked_list(name, images, check) if isinstance(images, (list, tuple)) else check(name, images)

    def is_clip(self, images: Tensor) -> bool:
        """Whether the network sees checked images frame by frame."""
        return self._channels.is_image_network and images.dim() == 5

    def runs_lean(self, **images: Tensor | None) -> bool:
        """Whether the lean engine runs for the images; raises where it is asked for what it cannot give.

        Never in a program of torch.export or torch.jit.trace: its operators know the network by a key, and a program
        is to hold the weights.
        """
        given = {name: tensor for name, tensor in images.items() if tensor is not None}
        if ops.is_exporting() and torch.compiler.is_dynamo_compiling():
            raise RuntimeError(
                f"torch.export: expected strict=False, its default, for a {type(self).__name__}, whose weights are in "
                "no state dict; got strict=True"
            )
        wants_gradient = torch.is_grad_enabled() and any([tensor.requires_grad for tensor in given.values()])
        if self.tile_size is not None and (reason := self.no_tiles(wants_gradient)):
            raise ValueError(f"tile_size: expected None, since {reason}; got {self.tile_size!r}")
        if self.engine != "lean" or ops.makes_program():
            return False
        if not ops.use_engine(next(iter(given.values())).device, self.backend):
            return False
        if not torch.compiler.is_compiling():
            for name, tensor in given.items():
                if ops.has_tangent(tensor):
                    raise RuntimeError(
                        f"{name}: expected no forward-mode tangent, since this loss makes its gradient in its forward; "
                        f'make it with engine="autograd"'
                    )
        return True

    def no_tiles(self, wants_gradient: bool = True) -> str:
        """Why images cannot go through the network in tiles; empty where they can."""
        if self.engine != "lean":
            return f'engine="{self.engine}" keeps what it needs of the whole image'
        if not isinstance(self._trunk, Trunk):
            return f"{self._trunk.name} is no chain, whose windows are known"
        if self._network_size:
            return "input_size brings all images to one size"
        if self.backend == "reference":
            return 'backend="reference" keeps what it needs of the whole image'
        return ""

    def tile_side(self, images: Tensor) -> int | None:
        """The side of the tiles in which checked images (N, C, H, W) go through the network; None: they go whole."""
        return self.trunk_input(images).tile_side(images) if self.runs_lean(images=images) else None

    def trunk_input(self, images: Tensor, input_size: InputSize | None = None) -> TrunkInput:
        """How images enter the lean engine; None: in the size in which they come."""
        dtype = self.network_dtype()
        if self.compute_dtype is not None:
            dtype = self.compute_dtype
        elif dtype != torch.float64:
            dtype = autocast_dtype(images.device.type) or dtype
        scale, shift = self._kept["input"]
        size = InputSize.of_images() if input_size is None else input_size
        graphs = self.cuda_graphs and may_capture(images)
        tile_size = WHERE_LARGE if self.tile_size is None else AUTO if self.tile_size == "auto" else self.tile_size
        return TrunkInput(
            prepared(self._trunk.key, dtype), scale, shift, dtype, self.chunk_size or 0, size, graphs, tile_size
        )

    def target_features(
        self, images: Tensor, layers: Sequence[str], input_size: InputSize | None = None
    ) -> list[Tensor]:
        """Features of targets through which no gradient flows: the pass keeps nothing."""
        with ops.grad_mode(False):
            lean = self.runs_lean(images=images)
            if lean and isinstance(self._trunk, Trunk):
                return trunk_features(images, self.trunk_input(images, input_size), layers)
            size = self._graph_chunk
            if lean and size is None:
                size = self.trunk_input(images, input_size).samples_at_a_time(images)
            parts = [self.features(images[rows], layers, input_size) for rows in chunks(images.shape[0], size)]
            return [torch.cat(maps) if len(maps) > 1 else maps[0] for maps in zip(*parts, strict=True)]

    def network_dtype(self) -> torch.dtype:
        """The dtype of the network."""
        dtype, _ = kind_of(self._network)
        if self.compute_dtype not in (None, dtype) and dtype != torch.float32:
            raise ValueError(
                f"compute_dtype: expected None or {dtype}, the dtype the network was moved to; got {self.compute_dtype}"
            )
        return dtype

    def features(self, images: Tensor, layers: Sequence[str], input_size: InputSize | None = None) -> list[Tensor]:
        """Images (N, C, H, W) in input_range -> the features of each layer."""
        images = images if input_size is None else input_size.entered(images)
        if not (ops.makes_program() or images.shape[0]):
            # Few modules take an empty batch: a blank image goes in, whose features are dropped.
            one = torch.cat([images, images.new_zeros(1, *images.shape[1:])])
            return [x[:0] for x in self.features(one, layers)]
        dtype = self.network_dtype()
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        scale, shift = (per_channel(tensor.to(wide), images) for tensor in self._kept["input"])
        with self._precision(images.device.type):
            features = self._network.features(torch.addcmul(shift, images.to(wide), scale).to(dtype), layers)
        # Under autocast the layers of a module may differ in dtype.
        common = reduce(torch.promote_types, (features[layer].dtype for layer in layers))
        return [features[layer].to(common) for layer in layers]

    @property
    def _graph_chunk(self) -> int | None:
        """Samples of a chunk for ordinary autograd; a program is for any batch, which chunks would fix."""
        return None if ops.makes_program() else self.chunk_size

    def _precision(self, device_type: str) -> contextlib.AbstractContextManager[object]:
        if self.compute_dtype is None:
            return contextlib.nullcontext()
        if self.compute_dtype == torch.float32:
            return autocast(device_type)
        return autocast(device_type, self.compute_dtype)

"""What drop-ins for LPIPS in the layout of the package lpips share."""

from __future__ import annotations

import re
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Never

from .._module import Module
from .._settings import Fixed, ModuleWithSettings, fixed
from ..losses import LPIPS
from ..networks import FeatureNetwork
from ..networks.metric_weights import linear_weights
from ._checkpoint import DropsPeerState
from ._images import check_images
from ._options import HasEngineOptions
from ._peer_weights import dtype_of, has_no_numbers, refuse_others, take_numbers, take_trunk, tell, trunk_weights

# The normalisation of images in [-1, 1], as lpips rounds it, and the networks as its files and maps are called.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
Net = Literal["alex", "vgg", "squeeze"]
NETWORKS: tuple[Net, ...] = get_args(Net)


def _linear_layer(index: int) -> Any:
    def read(self: LpipsModule) -> NetLinLayer:
        if index >= self.L:
            raise AttributeError  # a network of fewer layers; nn.Module says it
        return NetLinLayer(self._linear_numbers()[index])

    return fixed(f"lin{index}", read=read)


class LpipsModule(DropsPeerState, HasEngineOptions):
    """A module that has what lpips' has beside its distance, over a loss of this library.

    Its parts, for forwards of one's own, run by autograd: `net` (normalised images -> named tuple of maps), `lins`,
    `lin0`, ... (linear layers, copies that nothing trains), `scaling_layer` (the normalisation), `chns` and `L`. None
    can be set, but the options of the engine can.

    Args:
        loss: Without reduction, for images in [-1, 1].
    """

    peer_keys: ClassVar[re.Pattern[str]] = re.compile(
        r"scaling_layer\.(shift|scale)|net\.slice\d+\.[\w.]+\.(weight|bias)|lin(s\.)?\d+\.model\.[01]\.weight"
    )

    weights: Fixed[Never] = fixed("weights")
    linear: Fixed[Never] = fixed("linear")
    chns: Fixed[list[int]] = fixed("chns", read=lambda self: [len(numbers) for numbers in self._linear_numbers()])
    L: Fixed[int] = fixed("L", read=lambda self: len(self.chns))
    net: Fixed[Maps] = fixed("net", read=lambda self: Maps(self._loss))
    scaling_layer: Fixed[ScalingLayer] = fixed(
        "scaling_layer", read=lambda self: ScalingLayer(self._loss.device, self._dtype())
    )
    lins: Fixed[nn.ModuleList] = fixed(
        "lins", read=lambda self: nn.ModuleList(map(NetLinLayer, self._linear_numbers()))
    )
    lin0: Fixed[NetLinLayer] = _linear_layer(0)
    lin1: Fixed[NetLinLayer] = _linear_layer(1)
    lin2: Fixed[NetLinLayer] = _linear_layer(2)
    lin3: Fixed[NetLinLayer] = _linear_layer(3)
    lin4: Fixed[NetLinLayer] = _linear_layer(4)
    lin5: Fixed[NetLinLayer] = _linear_layer(5)
    lin6: Fixed[NetLinLayer] = _linear_layer(6)

    def __init__(self, loss: LPIPS) -> None:
        super().__init__()
        self._loss = loss

    def _linear_numbers(self) -> list[Tensor]:  # L x (C)
        return self._loss.learned_weights(self._dtype())

    def _dtype(self) -> torch.dtype:
        return self._loss.network_dtype()

    def _take_peer_state(self, state: Mapping[str, Tensor], place: str) -> None:
        origin = place or "the state dict"
        if has_no_numbers(self._loss, state, origin):
            return
        refuse_others(state, {"scaling_layer.shift": SHIFT, "scaling_layer.scale": SCALE}, origin)
        has_linear, has_trunk = (any(key.startswith(part) for key in state) for part in ("lin", "net."))
        linear = linear_weights(state, "", "0.1", "", self.chns, origin) if has_linear else []
        trunk = trunk_weights(self._loss, state, origin) if has_trunk else {}
        taken, saved = {}, dtype_of(state)  # from here on nothing is refused
        if linear:
            taken["linear weights"] = take_numbers(self._loss, linear, saved)
        if trunk:
            taken["network"] = take_trunk(self._loss, trunk, saved)
        tell(place, taken, "linear= and weights=, which take a state dict of lpips")


def pair_of(loss: LPIPS, **images: object) -> tuple[Tensor, Tensor]:
    """Two batches of images, checked; (C, H, W) and (H, W) are a batch of 1, as where the shift has four axes."""
    batches = {
        name: x[(None,) * (4 - x.dim())] if isinstance(x, Tensor) and x.dim() in (2, 3) else x
        for name, x in images.items()
    }
    check_images(loss, **batches)
    first, second = batches.values()
    assert isinstance(first, Tensor)
    assert isinstance(second, Tensor)
    return first, second


class Maps(Module):
    """lpips' `net`: the maps of a frozen network that LPIPS compares, by autograd."""

    _network: FeatureNetwork

    def __init__(self, loss: LPIPS) -> None:
        super().__init__()
        object.__setattr__(self, "_network", loss.frozen_network)  # none of its parameters is to be this module's
        self._layers = loss.layers
        names = loss.layers if "_" in loss.layers[0] else [f"relu{i}" for i in range(1, len(loss.layers) + 1)]
        self._named = _named(names)
        self.N_slices: int = len(names)

    def forward(self, X: Tensor) -> Any:
        """Normalised images (N, 3, H, W) -> a named tuple of maps (N, C, H', W')."""
        return self._named(*self._network.features(X, self._layers).values())


def _named(names: Sequence[str]) -> Callable[..., Any]:
    return namedtuple("Maps", names)


class ScalingLayer(ModuleWithSettings):
    """lpips' `scaling_layer`: the normalisation of images in [-1, 1]."""

    shift: Fixed[Tensor] = fixed("shift")
    scale: Fixed[Tensor] = fixed("scale")

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self._shift, self._scale = (
            torch.tensor(numbers, dtype=dtype, device=device).view(1, 3, 1, 1) for numbers in (SHIFT, SCALE)
        )

    def forward(self, inp: Tensor) -> Tensor:
        """(N, 3, H, W) -> the same."""
        return (inp - self.shift) / self.scale


class NetLinLayer(Module):
    """lpips' `lin0`, ...: one number a channel, (C), as a 1x1 convolution (N, C, H, W) -> (N, 1, H, W)."""

    def __init__(self, numbers: Tensor) -> None:
        super().__init__()
        conv: nn.Conv2d = nn.utils.skip_init(nn.Conv2d, len(numbers), 1, 1, bias=False)
        conv.weight = nn.Parameter(numbers.detach().clone().view(1, -1, 1, 1), requires_grad=False)
        self.model: nn.Sequential = nn.Sequential(nn.Dropout(), conv)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 1, H, W)."""
        maps: Tensor = self.model(x)
        return maps

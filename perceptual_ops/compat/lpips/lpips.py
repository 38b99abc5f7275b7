"""lpips' LPIPS (lpips/lpips.py, 0.1.4)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

from torch import Tensor, nn
from typing_extensions import Unpack

from ... import _checks as checks
from ..._settings import Fixed, fixed, passed_on
from ...losses import LPIPS as _LPIPS
from ...losses.lpips import LAYERS
from ...losses.options import EngineOptions, takes_engine_options
from ...names import LpipsVersion
from ...networks import checked_network
from ...networks.checkpoint_files import OTHER_FILE, checked_path, read_checkpoint
from ...networks.metric_weights import LinearSource
from ...networks.weights import WeightSource
from .._lpips import LpipsModule, pair_of
from .._missing import missing_names
from .helpers import spatial_average, upsample

__all__ = ["LPIPS", "spatial_average", "upsample"]

Net = Literal["alex", "vgg", "vgg16", "squeeze"]
NETWORKS: tuple[Net, ...] = get_args(Net)


class LPIPS(LpipsModule):
    """lpips's `LPIPS`: (N, 1, 1, 1), or maps (N, 1, H, W) for spatial, from images in [-1, 1].

    Differences from lpips: nothing is trainable (there the linear weights are, unless one freezes them) and dropout
    never runs, so `eval_mode` and `verbose` change nothing; the gradient at features that are all zero is 0, not NaN;
    `use_dropout=False` loads the linear weights like any other call (there they silently stay random).

    Its state dict is empty. One of lpips loads all the same, alone or within a checkpoint of a model that held lpips':
    the linear weights and the network in it become the loss's, with a warning where a model's are others than those it
    was made with (lpips trains the linear weights unless they are frozen), since they are not saved again. For an
    optimizer's state see `perceptual_ops.compat`.

    Attributes:
        spatial: As given; a new value holds from the next call on. So do the options.
        net: The network of lpips, a frozen copy, for a forward of your own; so are `scaling_layer`, `lins`, `lin0` and
            the rest.
        version: As in lpips, fixed; so are `chns`, `L`, `pnet_type`, `pnet_rand`, `pnet_tune` and `lpips`.

    Args:
        pretrained: Whether the linear weights are the learned ones; else they are drawn as `torch.nn.Conv2d` draws its
            own, from the global random numbers.
        net: "alex", "vgg", "vgg16" (the same) or "squeeze".
        version: Version of the learned linear weights: "0.1", or "0.0", whose network takes images as they are.
        lpips: Whether there are linear weights at all; else every channel weighs 1.
        spatial: Whether the result is a map.
        pnet_rand: Whether the network has random weights.
        pnet_tune: Refused if set: the network is frozen.
        use_dropout, eval_mode, verbose: Change nothing.
        model_path: A checkpoint of lpips with linear weights; those of the network are taken from it too, if it has
            them.
        weights: Weights of the network, see `perceptual_ops.LPIPS`.
        linear: The linear weights, in place of what the arguments above say; see `perceptual_ops.LPIPS`.
        options: Options of the engine, see `perceptual_ops.losses.EngineOptions`.

    Raises:
        TypeError, ValueError, OSError: As `perceptual_ops.LPIPS`; ValueError for pnet_tune.
    """

    spatial: bool = passed_on("spatial")
    lpips: Fixed[bool] = fixed("lpips")
    version: Fixed[LpipsVersion] = fixed("version", "_linear_version")
    pnet_type: Fixed[Net] = fixed("pnet_type")
    pnet_rand: Fixed[bool] = fixed("pnet_rand")
    pnet_tune: Fixed[bool] = fixed("pnet_tune")
    pretrained: Fixed[bool] = fixed("pretrained")
    model_path: Fixed[str | os.PathLike[str] | None] = fixed("model_path")
    use_dropout: Fixed[bool] = fixed("use_dropout")
    eval_mode: Fixed[bool] = fixed("eval_mode")
    verbose: Fixed[bool] = fixed("verbose")

    @takes_engine_options
    def __init__(
        self,
        pretrained: bool = True,
        net: Net = "alex",
        version: LpipsVersion = "0.1",
        lpips: bool = True,
        spatial: bool = False,
        pnet_rand: bool = False,
        pnet_tune: bool = False,
        use_dropout: bool = True,
        model_path: str | os.PathLike[str] | None = None,
        eval_mode: bool = True,
        verbose: bool = True,
        *,
        weights: WeightSource = "imagenet",
        linear: LinearSource | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        checks.check_choice("net", net, NETWORKS)
        if pnet_tune:
            raise ValueError("pnet_tune: expected False, since the network is frozen; train it with the package lpips")
        weights = "random" if pnet_rand else weights
        if linear is None and lpips and pretrained and model_path is not None:
            linear = _checkpoint(model_path)
            weights = linear if any(str(key).startswith("net.") for key in linear) else weights
        elif linear is None and lpips and not pretrained:
            linear = _random_linear(net)
        elif linear is None:
            linear = lpips  # the learned ones, or none
        loss = _LPIPS(net, weights=weights, version=version, linear=linear, spatial=spatial, **options)
        super().__init__(loss)
        self._lpips, self._linear_version = lpips, version  # nn.Module has a `_version`
        self._pnet_type, self._pnet_rand, self._pnet_tune = net, pnet_rand, pnet_tune
        self._pretrained, self._model_path, self._use_dropout = pretrained, model_path, use_dropout
        self._eval_mode, self._verbose = eval_mode, verbose

    if TYPE_CHECKING:

        @overload
        def __call__(
            self, in0: Tensor, in1: Tensor, retPerLayer: Literal[False] = False, normalize: bool = False
        ) -> Tensor: ...

        @overload
        def __call__(
            self, in0: Tensor, in1: Tensor, retPerLayer: Literal[True], normalize: bool = False
        ) -> tuple[Tensor, list[Tensor]]: ...

        @overload
        def __call__(
            self, in0: Tensor, in1: Tensor, retPerLayer: bool = False, normalize: bool = False
        ) -> Tensor | tuple[Tensor, list[Tensor]]: ...

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """The distance of image pairs.

            Args:
                in0, in1: Images (N, 3, H, W), or (N, 1, H, W) for grey; either may be a batch of 1, or (3, H, W).
                    Gradients flow to those that require them.
                retPerLayer: Whether to return the value of each layer too, a list of the same shape.
                normalize: Whether the images are in [0, 1] instead of [-1, 1].

            Returns:
                (N, 1, 1, 1), or (N, 1, H, W) for spatial.
            """

    def forward(
        self, in0: Tensor, in1: Tensor, retPerLayer: bool = False, normalize: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """The distance of image pairs.

        Args:
            in0, in1: Images (N, 3, H, W), or (N, 1, H, W) for grey; either may be a batch of 1, or (3, H, W). Gradients
                flow to those that require them.
            retPerLayer: Whether to return the value of each layer too, a list of the same shape.
            normalize: Whether the images are in [0, 1] instead of [-1, 1].
        """
        in0, in1 = pair_of(self._loss, in0=in0, in1=in1)
        if normalize:
            in0, in1 = 2 * in0 - 1, 2 * in1 - 1
        if not retPerLayer:
            return self._shaped(self._loss(in0, in1))
        value, layers = self._loss(in0, in1, return_layers=True)
        return self._shaped(value), [self._shaped(layer) for layer in layers]

    def _shaped(self, value: Tensor) -> Tensor:  # (N) or (N, 1, H, W)
        return value if self.spatial else value.view(-1, 1, 1, 1)

    def _take_peer_state(self, state: Mapping[str, Tensor], place: str) -> None:
        if not self.lpips and any(key.startswith("lin") for key in state):
            raise ValueError(
                f"{place or 'the state dict'}: expected no linear weights for a loss made with lpips=False, got "
                f"{min(key for key in state if key.startswith('lin'))}; make it with lpips=True"
            )
        super()._take_peer_state(state, place)


def _checkpoint(path: str | os.PathLike[str]) -> Mapping[str, Tensor]:
    state = read_checkpoint(checked_path("model_path", path, "None"), OTHER_FILE)
    if not isinstance(state, Mapping):
        raise ValueError(f"model_path: expected a state dict in {os.fspath(path)}, got {type(state).__name__}")
    return state


def _random_linear(net: Net) -> list[Tensor]:
    return [
        nn.Conv2d(count, 1, 1, bias=False).weight.detach()
        for count in LAYERS[checked_network("net", net, LAYERS)].values()
    ]


_BASELINE = "use the functions l2 and dssim of perceptual_ops.compat.lpips, for one pair as well"
TRAINED = "train linear weights with the package lpips, and pass its file as linear="
MISSING = {
    "L2": _BASELINE,
    "DSSIM": _BASELINE,
    "FakeNet": _BASELINE,
    "BCERankingLoss": TRAINED,
    "Dist2LogitLayer": TRAINED,
    "NetLinLayer": "use the copies that an LPIPS has as lins, lin0, ...",
    "ScalingLayer": "use what an LPIPS has as scaling_layer",
    "pn": "use perceptual_ops.load_network, or what an LPIPS has as net",
    "print_network": "print the loss itself, which has no parameters to count",
}
if not TYPE_CHECKING:  # which refuses such names itself
    __getattr__ = missing_names(__name__, MISSING)

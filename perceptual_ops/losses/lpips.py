"""LPIPS, the learned perceptual image patch similarity."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Never, Unpack

from .. import _checks as checks
from .. import metric_ops
from .._settings import Fixed, fixed, setting
from ..engine.batching import rows_of
from ..engine.masks import at_layer
from ..engine.metrics import Lpips
from ..engine.tiled_maps import tiled_maps
from ..names import LpipsName, LpipsTrunk, LpipsVersion, Reduction
from ..networks import checked_network, load_network
from ..networks.metric_weights import LPIPS_VERSIONS, LinearSource, linear_weights
from ..networks.weights import WeightSource
from .mask import masks_of
from .metric import MetricLoss
from .options import EngineOptions, takes_engine_options
from .sample_weight import Numbers
from .samples import CallOptions, Images, values_of

# The layers of each network with their channels, as in the package lpips.
LAYERS: dict[LpipsTrunk, dict[str, int]] = {
    "alexnet": {"relu1": 64, "relu2": 192, "relu3": 384, "relu4": 256, "relu5": 256},
    "vgg16": {"relu1_2": 64, "relu2_2": 128, "relu3_3": 256, "relu4_3": 512, "relu5_3": 512},
    "squeezenet1_1": {
        "relu1": 64, "fire3": 128, "fire5": 256, "fire6": 384, "fire7": 384, "fire8": 512, "fire9": 512,
    },
}  # fmt: skip


class LPIPS(MetricLoss):
    """Distance of two images as people see it (Zhang et al. 2018, arXiv 1801.03924), as a metric and as a loss.

    Features of both images at several layers are scaled to unit length over the channels of each pixel. Their squared
    differences are weighted by channel, averaged over the pixels and summed over the layers, see `lpips_distance`. The
    numbers are those of the package lpips; gradients at features that are all zero are 0, not NaN.

    Args:
        network: "alex" or "alexnet", "vgg16" or "vgg", "squeeze" or "squeezenet1_1".
        weights: Weights of the trunk: "imagenet", "stlpips" (the shift-tolerant ST-LPIPS of Ghildyal and Liu 2022,
            "alex" and "vgg16", with the linear weights it was published with), "random", a path or a state dict
            (`load_network`).
        version: Version of the official linear weights: "0.1", or "0.0", whose trunk takes images in [-1, 1] as they
            are.
        linear: True: the official linear weights, or those of "stlpips"; False: every channel weighs 1; or a path or
            state dict of others, such as a checkpoint of the package lpips.
        spatial: Whether the result is a map over the pixels instead of a number: each layer's, resized bilinearly to
            the images' size, and their sum.
        input_range: Values of black and white in the images; not checked.
        reduction: "none", or "mean" or "sum" over the batch; "none" for spatial.
        eps, eps_inside: See `lpips_distance`; torchmetrics has 1e-8 inside the root.
        mean, std: Normalisation of an image in [0, 1], three numbers each. None: that of the version.
        options: Options of the engine, see `losses.EngineOptions`. Spatial maps and per-layer values use ordinary
            autograd, with its memory cost; maps of large images go in tiles where no gradient is wanted. "alex" and
            "vgg16" run images of more than twice the pixels of a chunk in tiles through the first layers, whose maps
            are the largest, and much larger ones through all layers.

    Raises:
        TypeError, ValueError: Invalid argument; the message names it.
        OSError, ModuleNotFoundError: Weights are not available; the message says where to put them.
    """

    metric: str = "lpips"

    spatial: bool = setting("spatial", checks.check_flag)
    eps: float = setting("eps", checks.check_positive)
    eps_inside: bool = setting("eps_inside", checks.check_flag)
    version: Fixed[LpipsVersion] = fixed("version", "_linear_version")
    linear: Fixed[Never] = fixed("linear")

    @takes_engine_options
    def __init__(
        self,
        network: LpipsName = "alex",
        *,
        weights: WeightSource = "imagenet",
        version: LpipsVersion = "0.1",
        linear: LinearSource = True,
        spatial: bool = False,
        input_range: tuple[float, float] = (-1.0, 1.0),
        reduction: Reduction = "none",
        eps: float = 1e-10,
        eps_inside: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        name = checked_network("network", network, LAYERS)
        checks.check_choice("version", version, LPIPS_VERSIONS)
        checks.check_lpips_settings(eps, eps_inside, reduction, spatial)
        if version != "0.1" and isinstance(weights, str) and weights == "stlpips":
            raise ValueError(f'version: expected "0.1" with weights="stlpips", whose input it is; got {version!r}')
        channels = LAYERS[name]
        with torch.inference_mode(False):  # or it could not serve in training later
            trunk = load_network(name, weights, layers=channels)
        numbers = linear_weights(linear, name, version, weights, list(channels.values()))
        unscaled = (0.5, 0.5, 0.5)  # [0, 1] to [-1, 1]
        own_mean, own_std = (unscaled, unscaled) if version == "0.0" else (trunk.mean, trunk.std)
        super().__init__(
            trunk, list(channels), numbers, own_mean if mean is None else mean, own_std if std is None else std,
            input_range, reduction, **options,
        )  # fmt: skip
        self._linear_version = version
        self.spatial = spatial
        self.eps, self.eps_inside = eps, eps_inside

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, spatial={self.spatial}, reduction={self.reduction!r}"

    if TYPE_CHECKING:

        @overload
        def __call__(
            self, output: Images, target: Images, *, return_layers: Literal[False] = False,
            **others: Unpack[CallOptions],
        ) -> Tensor: ...  # fmt: skip

        @overload
        def __call__(
            self, output: Images, target: Images, *, return_layers: Literal[True], **others: Unpack[CallOptions]
        ) -> tuple[Tensor, list[Tensor]]: ...

        @overload
        def __call__(
            self, output: Images, target: Images, *, return_layers: bool = False, **others: Unpack[CallOptions]
        ) -> Tensor | tuple[Tensor, list[Tensor]]: ...

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """The distance of image pairs; `forward` says more.

            Args:
                output, target: Images (N, 3 or 1, H, W) in input_range, clips (N, 3, T, H, W), or two lists of N images
                    of any sizes; either may be a batch of 1. Gradients flow to those that require them.
                return_layers: Whether to return the value of each layer too.
                frames: Whether to return the distance of each frame instead of their mean; for reduction="none".
                sample_weight: (N,) numbers by which the distances are multiplied.
                mask: (N or 1, 1, H, W) in [0, 1], which pixels are compared; not for spatial maps.

            Returns:
                (N,), (N, T) with frames, or a scalar for another reduction; (N, 1, H, W) for spatial, (N, 1, T, H, W)
                of clips. With return_layers also a list of the same for each layer. fp32 (fp64 for a network in fp64).
            """

    def forward(
        self,
        output: Images,
        target: Images,
        *,
        return_layers: bool = False,
        frames: bool = False,
        sample_weight: Numbers | None = None,
        mask: Images | None = None,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """The distance of image pairs, which is symmetric. That of clips is the mean over their frames.

        Args:
            output, target: Images (N, 3, H, W), or (N, 1, H, W) for grey, in input_range, or clips (N, 3, T, H, W);
                either may be a batch of 1. Or two lists of N images (3, H, W) or (1, 3, H, W) of any sizes. Gradients
                flow to those that require them.
            return_layers: Whether to return the value of each layer too.
            frames: Whether to return the distance of each frame instead of their mean; for reduction="none". Spatial
                maps are of each frame anyway.
            sample_weight: (N,) numbers by which the distances are multiplied; pairs of weight 0 do not run. See
                `PerceptualLoss.forward`, which says more of clips and lists, too.
            mask: (N or 1, 1, H, W) in [0, 1]: which pixels are compared. At each layer the distances of the pixels are
                averaged with the mask, brought to the layer's size, as weight. See `PerceptualLoss.forward`; not for
                spatial maps.

        Returns:
            (N,), (N, T) with frames, or a scalar for another reduction; (N, 1, H, W) for spatial, (N, 1, T, H, W) of
            clips. With return_layers also a list of the same for each layer. fp32 (fp64 for a network in fp64).

        Raises:
            TypeError, ValueError: Images of a wrong type, shape, device or size.
        """
        checks.check_lpips_settings(self.eps, self.eps_inside, self.reduction, self.spatial)
        if return_layers and not self.spatial and self.tile_size is not None:
            raise ValueError(
                f"tile_size: expected None, since tiles give no shares of the layers; got {self.tile_size!r}"
            )
        of_images = partial(self._of_images, return_layers=return_layers)
        pair = self._pair(output, target)
        masks = masks_of(self, mask, pair[0])
        if masks and self.spatial:
            raise ValueError("mask: expected None with spatial=True, whose maps you can weigh yourself; got a mask")
        total, *layers = values_of(self, of_images, pair, masks, frames, sample_weight, are_maps=self.spatial)
        return (total, layers) if return_layers else total

    def no_tiles(self, wants_gradient: bool = True) -> str:
        reason = super().no_tiles(wants_gradient)
        if self.spatial and not reason and (wants_gradient or torch.compiler.is_compiling()):
            return "spatial=True gives a map, whose gradient takes the whole image, as compiled code does"
        return reason

    def _of_images(self, images: list[Tensor], masks: list[Tensor], return_layers: bool) -> list[Tensor]:
        """An `OfImages`: the distance (M), or maps (M, 1, H, W), and the layers' shares."""
        output, target = images
        lean = self.runs_lean(output=output, target=target)  # raises, too, where it is asked for and cannot be
        if self.spatial:
            return self._summed_maps(output, target, lean, return_layers)
        if lean and not return_layers:
            return [self._lean_distance(output, target, *masks)]
        pairs = self._graph_pairs(output, target)
        if masks:
            of_chunks = self._masked_distances(pairs, masks[0])
        elif return_layers:
            of_chunks = [self._layer_distances(*maps) for maps in pairs]
        else:
            return [torch.cat([self._distance(*maps) for maps in pairs])]
        layers = [torch.cat(parts) for parts in zip(*of_chunks, strict=True)]
        return [torch.stack(layers).sum(0), *(layers if return_layers else [])]

    def _summed_maps(self, output: Tensor, target: Tensor, lean: bool, return_layers: bool) -> list[Tensor]:
        """The sum of the layers' maps (M, 1, H, W) in the images' size, and the maps."""
        wants_gradient = torch.is_grad_enabled() and (output.requires_grad or target.requires_grad)
        if lean and not self.no_tiles(wants_gradient) and (side := self.trunk_input(output).tile_side(output)):
            maps = self._maps_in_tiles(output, target, side)
        else:
            of_chunks = [self._maps(*pair) for pair in self._graph_pairs(output, target)]
            maps = [torch.cat(parts) for parts in zip(*of_chunks, strict=True)]
        size = (output.shape[2], output.shape[3])
        layers = (F.interpolate(pixels, size=size, mode="bilinear", align_corners=False) for pixels in maps)
        if not return_layers:
            return [reduce(torch.add, layers)]  # never all of them at once
        kept = [*layers]
        return [reduce(torch.add, kept), *kept]

    def _maps_in_tiles(self, output: Tensor, target: Tensor, side: int) -> list[Tensor]:
        """Each layer's map (M, 1, H', W')."""
        trunk_input = self.trunk_input(output)
        metric, names = self.metric_settings().of(self.learned_weights(trunk_input.wide)), self.network_layers
        assert isinstance(metric, Lpips), "the only one with maps"

        def pixels(layer: str, x: Tensor, y: Tensor) -> Tensor:  # (n, C, h, w), y maybe with a batch of 1
            return metric.pixels(names.index(layer), x, y)

        of_chunks = []
        for rows in trunk_input.chunks(output):
            pair = output[rows], target if target.shape[0] == 1 else target[rows]
            of_chunks.append(tiled_maps(pair, trunk_input, names, side, pixels))
        return [torch.cat(parts) for parts in zip(*of_chunks, strict=True)]

    def _eps_settings(self) -> tuple[float, bool]:
        return self.eps, self.eps_inside

    def _distance(self, xs: list[Tensor], ys: list[Tensor]) -> Tensor:  # L x (n, C, H, W) -> (n)
        numbers = self.learned_weights(checks.accumulator_dtype(xs[0]))
        return metric_ops.lpips_terms(xs, ys, numbers, self.eps, self.eps_inside, self.backend)[0]

    def _layer_distances(self, xs: list[Tensor], ys: list[Tensor]) -> list[Tensor]:  # L x (n, C, H, W) -> L x (n)
        """Each layer's distance, with a graph of its own."""
        triples = zip(xs, ys, self.learned_weights(checks.accumulator_dtype(xs[0])), strict=True)
        settings = *self._eps_settings(), self.backend
        return [metric_ops.lpips_terms([x], [y], [weights], *settings)[0] for x, y, weights in triples]

    def _maps(self, xs: list[Tensor], ys: list[Tensor]) -> list[Tensor]:  # L x (n, C, H', W') -> L x (n, 1, H', W')
        """Each layer's map, with a graph of its own."""
        numbers = self.learned_weights(checks.accumulator_dtype(xs[0]))
        return metric_ops.lpips_maps(xs, ys, numbers, *self._eps_settings(), self.backend)

    def _masked_distances(
        self,
        pairs: list[tuple[list[Tensor], list[Tensor]]],
        mask: Tensor,  # (M or 1, 1, H, W)
    ) -> list[list[Tensor]]:
        """Each layer's distance (n) of chunks of pairs, over their masks."""
        found, first = [], 0
        for xs, ys in pairs:
            rows = slice(first, first := first + xs[0].shape[0])
            (own,) = rows_of([mask], rows)
            weights = [
                at_layer(own, layer, x.shape[2], x.shape[3]).shares for layer, x in zip(self.layers, xs, strict=True)
            ]
            maps = self._maps(xs, ys)
            found.append([(pixels * shares).sum((1, 2, 3)) for pixels, shares in zip(maps, weights, strict=True)])
        return found

"""LPIPS (torchmetrics/image/lpip.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ... import _checks as checks
from ... import ops
from ..._settings import setting
from ...losses import LPIPS, image_input
from ...losses.options import split_options, takes_engine_options
from ...names import Reduction
from ...networks.metric_weights import LinearSource
from ...networks.weights import WeightSource
from .._images import check_images
from .._kept import kept_network
from .._lpips import NETWORKS, LpipsModule, Net
from .._ranges import WORDS, check_ranges
from .networks import NetworkMetric, loss_of
from .scores import check_choice, check_flag, check_reduction

EPS = 1e-8  # inside the root of a pixel's length
CHANNELS = image_input.Channels(3, "for LPIPS", is_image_network=True)


class LpipsNetwork(LpipsModule):
    """torchmetrics' network of LPIPS, with 1e-8 inside the root of a pixel's length; see `perceptual_ops.LPIPS`."""

    def __init__(self, net_type: Net, **settings: Any) -> None:
        super().__init__(LPIPS(net_type, eps=EPS, eps_inside=True, **settings))

    def forward(self, in0: Tensor, in1: Tensor, normalize: bool = False) -> Tensor:
        """The distance (N) of images (N, 3, H, W) in [-1, 1], or for normalize in [0, 1]."""
        if normalize:
            in0, in1 = (2 * images.to(checks.accumulator_dtype(images)) - 1 for images in (in0, in1))
        return self._loss(in0, in1)


class LearnedPerceptualImagePatchSimilarity(NetworkMetric):
    """torchmetrics' `LearnedPerceptualImagePatchSimilarity`: LPIPS with 1e-8 inside the root of a pixel's length.

    `compute` before any `update` raises a RuntimeError (torchmetrics warns). For "mean" and "sum" its states are sums
    instead of a list that grows: `sum_scores`, `lost` (what rounding took from it) and `total`, the number of pairs.
    A MetricCollection updates it as itself, never merged into another metric. Update, forward and the function compile
    under `torch.compile(fullgraph=True)`.

    Attributes:
        reduction: May be set, too, from "mean" to "sum" and back.
        normalize: May be set, as may `check_range`; read at each call.
        net: The network, with the parts of lpips': `net`, `lins`, `lin0`, ..., `scaling_layer`, copies that nothing
            trains. May be set to another of its kind.

    Args:
        net_type: "alex", "vgg" or "squeeze".
        reduction: "mean" or "sum" over all image pairs, or "none" or None.
        normalize: Whether images are in [0, 1] instead of [-1, 1].
        weights, linear: As of `perceptual_ops.LPIPS`.
        check_range: Whether images out of range are refused. As in torchmetrics [-1, 1] has no upper end. The check
            waits for the GPU; without it nothing does. Programs of torch.export and torch.jit.trace have none.
        kwargs: Options of the engine, see `perceptual_ops.losses.EngineOptions`, which
            are attributes of `net`; and those of `torchmetrics.Metric`.

    Raises:
        TypeError, ValueError, OSError: As `perceptual_ops.LPIPS`.
    """

    if TYPE_CHECKING:  # as in ScoreMetric
        plot_upper_bound: float
        normalize: bool
        check_range: bool
        net: LpipsNetwork
        __jit_unused_properties__: tuple[str, ...]

    plot_upper_bound = 1.0
    __jit_unused_properties__ = (*NetworkMetric.__jit_unused_properties__, "normalize", "check_range")
    _network_type = LpipsNetwork

    normalize = setting("normalize", check_flag)
    check_range = setting("check_range", check_flag)

    @takes_engine_options
    def __init__(
        self,
        net_type: Net = "alex",
        reduction: Reduction | None = "mean",
        normalize: bool = False,
        *,
        weights: WeightSource = "imagenet",
        linear: LinearSource = True,
        check_range: bool = True,
        **kwargs: Any,
    ) -> None:
        check_choice("net_type", net_type, NETWORKS)
        options, others = split_options(kwargs)
        super().__init__(reduction, **others)
        self.normalize = normalize
        self.check_range = check_range
        self.net = LpipsNetwork(net_type, weights=weights, linear=linear, **options)

    def update(self, img1: Tensor, img2: Tensor) -> None:
        """Adds the scores of image pairs (N, 3, H, W).

        Raises:
            TypeError, ValueError: Images of a wrong type, shape, device or size, or out of range.
        """
        self._take_in(img1, img2)

    def _scores(self, img1: Tensor, img2: Tensor) -> Tensor:  # type: ignore[override]
        return _scores(self.net, img1, img2, self.normalize, self.check_range)


def learned_perceptual_image_patch_similarity(
    img1: Tensor,
    img2: Tensor,
    net_type: Net = "alex",
    reduction: Reduction | None = "mean",
    normalize: bool = False,
    *,
    weights: WeightSource = "imagenet",
    check_range: bool = True,
) -> Tensor:
    """torchmetrics' function; the network is kept for the next call unless its weights are a state dict.

    Args:
        img1, img2: Images (N, 3, H, W). The network follows them to their device, and to fp64.
        net_type, reduction, normalize, check_range: As of `LearnedPerceptualImagePatchSimilarity`.
        weights: The same; under torch.compile a name or path, for a network cannot be made within a graph.

    Returns:
        A scalar, or (N,) for "none" or None; a scalar, too, for one pair.

    Raises:
        TypeError, ValueError, OSError: As `LearnedPerceptualImagePatchSimilarity` and its `update`.
    """
    check_choice("net_type", net_type, NETWORKS)
    reduction = check_reduction(reduction)
    net = kept_network(_made, net_type, weights, img1)
    scores = _scores(net, img1, img2, check_flag("normalize", normalize), check_range)
    return scores.squeeze() if reduction == "none" else checks.reduce(scores, reduction)


def _made(net_type: Any, weights: WeightSource) -> LpipsNetwork:
    return LpipsNetwork(net_type, weights=weights)


def _scores(net: Any, img1: Tensor, img2: Tensor, normalize: bool, check_range: bool) -> Tensor:  # -> (N)
    loss, pair = loss_of(net), {"img1": img1, "img2": img2}
    for name, images in pair.items():
        image_input.check_images(name, images, CHANNELS, (0.0, 1.0) if normalize else (-1.0, 1.0))
        if images.shape[1] != 3:
            raise ValueError(
                f"{name}: expected three channels, as torchmetrics does, got shape {tuple(images.shape)}; pass "
                f"{name}.expand(-1, 3, -1, -1) ({WORDS})"
            )
    # As in torchmetrics before sizes, and where the images are not beside each other, that is said below.
    is_checked = check_range and not ops.makes_program() and img1.device == img2.device
    in_range = check_ranges(img1.detach(), img2.detach(), normalize) if is_checked else 0
    check_images(loss, **pair)
    scores: Tensor = net(img1, img2, normalize=normalize)
    return scores + in_range

"""DISTS (torchmetrics/image/dists.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ... import _checks as checks
from ...losses import DISTS
from ...losses.options import split_options, takes_engine_options
from ...names import BatchReduction, Reduction
from ...networks.metric_weights import DistsSource
from ...networks.weights import WeightSource
from .._images import check_images
from .._kept import kept_network
from .networks import NetworkMetric, loss_of
from .scores import check_reduction


class DeepImageStructureAndTextureSimilarity(NetworkMetric):
    """torchmetrics' `DeepImageStructureAndTextureSimilarity`: DISTS of images in [0, 1], whatever their size.

    `compute` before any `update` raises a RuntimeError (torchmetrics warns). Its states are `sum_scores`, `lost` (what
    rounding took from it) and `total`, the number of pairs; the network is made once, not for every batch. A
    MetricCollection updates it as itself, never merged into another metric. Update, forward and the function compile
    under `torch.compile(fullgraph=True)`.

    Attributes:
        reduction: May be set, too.
        net: The network, a `perceptual_ops.DISTS`; may be set to another.

    Args:
        reduction: "mean" or "sum" over all image pairs.
        weights, alpha_beta: As of `perceptual_ops.DISTS`.
        kwargs: Options of the engine, see `perceptual_ops.losses.EngineOptions`, which
            are attributes of `net`; and those of `torchmetrics.Metric`.

    Raises:
        TypeError, ValueError, OSError: As `perceptual_ops.DISTS`.
    """

    if TYPE_CHECKING:  # as in ScoreMetric
        net: DISTS

    _reductions_known = ("mean", "sum")
    _network_type = DISTS

    @takes_engine_options
    def __init__(
        self,
        reduction: BatchReduction = "mean",
        *,
        weights: WeightSource = "imagenet",
        alpha_beta: DistsSource = None,
        **kwargs: Any,
    ) -> None:
        options, others = split_options(kwargs)
        super().__init__(reduction, **others)
        self.net = DISTS(weights=weights, alpha_beta=alpha_beta, **options)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds the scores of image pairs (N, 3, H, W), or (N, 1, H, W) for grey.

        Raises:
            TypeError, ValueError: Images of a wrong type, shape, device or size.
        """
        self._take_in(preds, target)

    def _scores(self, preds: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        check_images(loss_of(self.net), preds=preds, target=target)
        return self.net(preds, target)


def deep_image_structure_and_texture_similarity(
    preds: Tensor, target: Tensor, reduction: Reduction | None = None, *, weights: WeightSource = "imagenet"
) -> Tensor:
    """torchmetrics' function; the network is kept for the next call unless its weights are a state dict.

    Args:
        preds, target: Images (N, 3, H, W), or (N, 1, H, W) for grey, in [0, 1]. The network follows them to their
            device, and to fp64.
        reduction: "mean" or "sum" over the batch, "none" or None.
        weights: Weights of VGG16, see `perceptual_ops.load_network`; under torch.compile a name or path, for a network
            cannot be made within a graph.

    Returns:
        A scalar, or (N,) for "none" or None; a scalar, too, for one pair.

    Raises:
        TypeError, ValueError, OSError: As `DeepImageStructureAndTextureSimilarity` and its `update`.
    """
    reduction = check_reduction(reduction)
    net = kept_network(_made, "dists", weights, preds)
    check_images(net, preds=preds, target=target)
    scores = net(preds, target)
    return scores.squeeze() if reduction == "none" else checks.reduce(scores, reduction)


def _made(_: str, weights: WeightSource) -> DISTS:
    return DISTS(weights=weights)

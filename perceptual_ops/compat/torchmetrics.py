"""torchmetrics' LPIPS and DISTS (torchmetrics/image/lpip.py and dists.py, 1.9.0), classes and functions."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .. import _checks as checks
from ..losses import DISTS, LPIPS
from ..networks.metric_weights import DistsSource, LinearSource
from ..networks.weights import WeightSource
from ._images import check_images
from ._metric import Metric

NETWORKS = {"alex": "alex", "vgg": "vgg16", "squeeze": "squeeze"}
EPS = 1e-8  # inside the root of a pixel's length


class _ImageMetric(Metric):
    """A metric that averages, sums or collects one score for each image pair.

    Sums are fp64 states, so that neither memory nor error grows with the number of batches; no state holds a graph.
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    feature_network = "net"

    sum_scores: Tensor
    total: Tensor
    all_scores: list[Tensor]

    def __init__(self, net: LPIPS | DISTS, reduction: str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.net = net
        self.reduction = reduction
        self._score_dtype = torch.float32
        if reduction in ("mean", "sum"):
            self.add_state("sum_scores", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")
        else:
            self.add_state("all_scores", [], dist_reduce_fx="cat")

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The value of this batch, with a gradient, and `update` with it; a batch refused leaves all as it was."""
        before = {name: list(value) if isinstance(value, list) else value for name, value in vars(self).items()}
        try:
            value = super().forward(*args, **kwargs)
        except BaseException:
            vars(self).update(before)  # it begins with a reset
            raise
        if "all_scores" in self._defaults:
            self.all_scores = [scores.detach() for scores in self.all_scores]
        return value

    def compute(self) -> Tensor:
        """The reduction of the scores of all batches since the last reset; the mean of batches of 0 is 0.

        Raises:
            RuntimeError: There was no `update`.
        """
        is_list = self.reduction not in ("mean", "sum")
        # After a gathering the other processes may have scores that this one has not.
        if not self.update_called and not (len(self.all_scores) if is_list else self.total):
            raise RuntimeError("compute: expected image pairs first, got none since the last reset; call update")
        if not is_list:
            found = self.sum_scores / self.total.clamp(min=1) if self.reduction == "mean" else self.sum_scores
            return found.to(self._score_dtype)
        # A list before and a tensor after the scores of several processes were gathered.
        scores = self.all_scores if isinstance(self.all_scores, Tensor) else torch.cat(self.all_scores)
        return scores.squeeze()  # as torchmetrics gives a single score

    def _collect(self, scores: Tensor) -> None:  # (N)
        self._score_dtype = scores.dtype
        if self.reduction in ("mean", "sum"):
            self.sum_scores = self.sum_scores + scores.sum(dtype=torch.float64)
            self.total = self.total + len(scores)
        else:
            self.all_scores.append(scores)


class LearnedPerceptualImagePatchSimilarity(_ImageMetric):
    """torchmetrics' `LearnedPerceptualImagePatchSimilarity`: LPIPS with 1e-8 inside the root of a pixel's length.

    A `torchmetrics.Metric` where torchmetrics can be imported, else a module with update, compute, reset and forward,
    not synchronised between processes. `compute` before any `update` raises a RuntimeError (torchmetrics warns).
    For "mean" and "sum" its states are `sum_scores` and `total` instead of a list that grows.

    Args:
        net_type: "alex", "vgg" or "squeeze".
        reduction: "mean" or "sum" over all image pairs, or "none" or None.
        normalize: Whether images are in [0, 1] instead of [-1, 1].
        weights, linear: As of `perceptual_ops.LPIPS`.
        check_range: Whether images out of range are refused. As in torchmetrics [-1, 1] has no upper end. The check
            waits for the GPU; without it nothing does.
        compute_dtype, chunk_size, engine, backend: As of `perceptual_ops.LPIPS`.
        kwargs: Those of `torchmetrics.Metric`.

    Raises:
        TypeError, ValueError, OSError: As `perceptual_ops.LPIPS`.
    """

    def __init__(
        self,
        net_type: str = "alex",
        reduction: str | None = "mean",
        normalize: bool = False,
        *,
        weights: WeightSource = "imagenet",
        linear: LinearSource = True,
        check_range: bool = True,
        compute_dtype: torch.dtype | None = None,
        chunk_size: int | None = None,
        engine: str = "lean",
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        checks.check_choice("net_type", net_type, tuple(NETWORKS))
        if not isinstance(normalize, bool):
            raise ValueError(f"normalize: expected True or False, got {normalize!r}")
        net = LPIPS(
            NETWORKS[net_type], weights=weights, linear=linear, eps=EPS, eps_inside=True,
            input_range=(0.0, 1.0) if normalize else (-1.0, 1.0), compute_dtype=compute_dtype, chunk_size=chunk_size,
            engine=engine, backend=backend,
        )  # fmt: skip
        super().__init__(net, _checked_reduction(reduction), **kwargs)
        self.normalize = normalize
        self.check_range = check_range

    def update(self, img1: Tensor, img2: Tensor) -> None:
        """Takes the scores of image pairs (N, 3, H, W) in."""
        check_images(self.net, img1=img1, img2=img2)
        if self.check_range:
            _check_ranges(img1, img2, self.normalize)
        self._collect(self.net(img1, img2))


class DeepImageStructureAndTextureSimilarity(_ImageMetric):
    """torchmetrics' `DeepImageStructureAndTextureSimilarity`: DISTS of images in [0, 1], whatever their size.

    A `torchmetrics.Metric` where torchmetrics can be imported, else a module with update, compute, reset and forward,
    not synchronised between processes. `compute` before any `update` raises a RuntimeError (torchmetrics warns).
    Its states are `sum_scores` and `total`; the network is made once, not for every batch.

    Args:
        reduction: "mean" or "sum" over all image pairs.
        weights, alpha_beta: As of `perceptual_ops.DISTS`.
        compute_dtype, chunk_size, engine, backend: As of `perceptual_ops.DISTS`.
        kwargs: Those of `torchmetrics.Metric`.

    Raises:
        TypeError, ValueError, OSError: As `perceptual_ops.DISTS`.
    """

    def __init__(
        self,
        reduction: str = "mean",
        *,
        weights: WeightSource = "imagenet",
        alpha_beta: DistsSource = None,
        compute_dtype: torch.dtype | None = None,
        chunk_size: int | None = None,
        engine: str = "lean",
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        checks.check_choice("reduction", reduction, ("mean", "sum"))
        net = DISTS(
            weights=weights, alpha_beta=alpha_beta, compute_dtype=compute_dtype, chunk_size=chunk_size, engine=engine,
            backend=backend,
        )  # fmt: skip
        super().__init__(net, reduction, **kwargs)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Takes the scores of image pairs (N, 3, H, W) in."""
        check_images(self.net, preds=preds, target=target)
        self._collect(self.net(preds, target))


def learned_perceptual_image_patch_similarity(
    img1: Tensor,
    img2: Tensor,
    net_type: str = "alex",
    reduction: str | None = "mean",
    normalize: bool = False,
    *,
    weights: WeightSource = "imagenet",
    check_range: bool = True,
) -> Tensor:
    """torchmetrics' function; the network is kept for the next call unless its weights are a state dict.

    Args:
        img1, img2: Images (N, 3, H, W). The network follows them to their device, and to fp64.
        net_type, reduction, normalize, weights, check_range: As of `LearnedPerceptualImagePatchSimilarity`.

    Returns:
        A scalar, or (N,) for "none" or None; a scalar, too, for one pair.
    """
    checks.check_choice("net_type", net_type, tuple(NETWORKS))
    reduction = _checked_reduction(reduction)
    net = _network(net_type, weights, img1)
    check_images(net, img1=img1, img2=img2)
    if check_range:
        _check_ranges(img1, img2, normalize)
    scores = net(2 * img1 - 1, 2 * img2 - 1) if normalize else net(img1, img2)
    return scores.squeeze() if reduction == "none" else checks.reduce(scores, reduction)


def deep_image_structure_and_texture_similarity(
    preds: Tensor, target: Tensor, reduction: str | None = None, *, weights: WeightSource = "imagenet"
) -> Tensor:
    """torchmetrics' function; the network is kept for the next call unless its weights are a state dict.

    Args:
        preds, target: Images (N, 3, H, W) in [0, 1]. The network follows them to their device, and to fp64.
        reduction: "mean" or "sum" over the batch, "none" or None.
        weights: Of VGG16, see `perceptual_ops.load_network`.

    Returns:
        A scalar, or (N,) for "none" or None; a scalar, too, for one pair.
    """
    reduction = _checked_reduction(reduction)
    net = _network("dists", weights, preds)
    check_images(net, preds=preds, target=target)
    scores = net(preds, target)
    return scores.squeeze() if reduction == "none" else checks.reduce(scores, reduction)


def _network(metric: str, weights: WeightSource, images: object) -> LPIPS | DISTS:
    """The network of "dists", or of an LPIPS by its net_type, beside the images, if they are tensors."""
    device = images.device if isinstance(images, Tensor) else torch.device("cpu")
    is_double = isinstance(images, Tensor) and images.dtype == torch.float64
    if isinstance(weights, str):
        return _kept_network(metric, weights, device, is_double)
    return _made_network(metric, weights, device, is_double)


def _made_network(metric: str, weights: WeightSource, device: torch.device, is_double: bool) -> LPIPS | DISTS:
    net: LPIPS | DISTS
    net = (
        DISTS(weights=weights)
        if metric == "dists"
        else LPIPS(NETWORKS[metric], weights=weights, eps=EPS, eps_inside=True)
    )
    return net.to(device, torch.float64 if is_double else None)


@lru_cache(maxsize=4)
def _kept_network(metric: str, weights: str, device: torch.device, is_double: bool) -> LPIPS | DISTS:
    return _made_network(metric, weights, device, is_double)


def _checked_reduction(reduction: str | None) -> str:
    reduction = "none" if reduction is None else reduction
    checks.check_choice("reduction", reduction, checks.REDUCTIONS)
    return reduction


def _check_ranges(img1: Tensor, img2: Tensor, normalize: bool) -> None:
    if not len(img1) or not len(img2):
        return
    low, high = (0.0, 1.0) if normalize else (-1.0, float("inf"))
    # One wait for the GPU, not one for each number.
    ends = torch.stack([end.float() for images in (img1, img2) for end in torch.aminmax(images)]).tolist()
    for name, least, most in zip(("img1", "img2"), ends[::2], ends[1::2], strict=True):
        if not (least >= low and most <= high):
            expected = "[0, 1]" if normalize else "[-1, 1]"
            raise ValueError(
                f"{name}: expected values in {expected} for normalize={normalize}, got {least:.6g} to {most:.6g}; "
                f"clamp it, or make the metric with check_range=False"
            )

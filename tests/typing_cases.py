"""Programs as users write them, for type checkers alone: `make lint` has mypy and pyright read them, nothing runs them.

`assert_type` says what a right program gets. A line with `type: ignore` is a wrong one: an ignore that is not needed is
an error itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import perceptual_ops as po
from perceptual_ops import names, reference
from perceptual_ops.compat import basicsr, dists, lpips, lpips_pytorch, piq, piqa, taming, torchmetrics
from perceptual_ops.distributed import sharded
from perceptual_ops.losses import EngineOptions

Terms = tuple[Tensor, dict[str, Tensor]]
Layers = tuple[Tensor, list[Tensor]]


def losses(x: Tensor, y: Tensor, all_of_it: bool, weights: np.ndarray) -> None:
    loss = po.PerceptualLoss("vgg16", style_layers={"relu1_2": 1.0})
    assert_type(loss(x, y), Tensor)
    assert_type(loss([x], [y], style=[y], frames=True, sample_weight=weights, mask=[x]), Tensor)
    assert_type(loss(x, return_terms=True), Terms)
    assert_type(loss(x, y, return_terms=all_of_it), Tensor | Terms)
    loss(x, y, return_term=True)  # type: ignore[call-overload]
    loss("x.png", y)  # type: ignore[arg-type]
    loss(x, y).backward()
    loss(x, y, return_terms=True).backward()  # type: ignore[attr-defined]

    metric = po.LPIPS("alex", spatial=True)
    assert_type(metric(x, y), Tensor)
    assert_type(metric(x, y, return_layers=True, sample_weight=[0.5, 1]), Layers)
    assert_type(metric(x, y, return_layers=all_of_it), Tensor | Layers)
    metric(x)  # type: ignore[call-overload]

    assert_type(po.DISTS()(x, y, frames=True), Tensor)
    po.DISTS()(x, y, mask=x)  # type: ignore[call-arg]
    assert_type(po.chunked(lambda images: images.sum((1, 2, 3)), chunk_size=2)(x), Tensor)
    assert_type(po.gradient_of(loss, x, y)[0], Tensor)
    assert_type(sharded(loss)(x, y), Tensor)
    assert_type(po.distributed.sharded(loss)(x, y), Tensor)
    sharded(nn.MSELoss())  # type: ignore[arg-type]
    po.PerceptualLos()  # type: ignore[attr-defined]
    assert_type(loss.to("cuda").half()(x, y), Tensor)


def take_a_criterion(criterion: Callable[[Tensor, Tensor], Tensor]) -> None:
    take_a_criterion(po.PerceptualLoss())
    take_a_criterion(po.LPIPS())
    take_a_criterion(po.DISTS())
    take_a_criterion(lpips.LPIPS())
    take_a_criterion(piq.LPIPS())
    take_a_criterion(basicsr.PerceptualLoss({}))  # type: ignore[arg-type]  # it returns two


def settings(network: nn.Module, options: EngineOptions) -> None:
    po.PerceptualLoss(network, content_layers=["layer1"], **options)
    po.PerceptualLoss("vgg16", content_distance="cosine", compute_dtype="bfloat16", tile_size="auto", engine="autograd")
    po.PerceptualLoss("dinov2_base", weights="lvd142m", style_statistics="mean_std", gram_over="clip")
    po.PerceptualLoss.preset("johnson-style", style_weight=1e9, weights="random", chunk_size=4)
    po.PerceptualLoss.preset("titok", network=network, **options)
    po.PerceptualLoss.preset("johnson-style", style_wieght=1e9)  # type: ignore[call-arg]
    po.PerceptualLoss.preset("johnson-style", style_weight="1e9")  # type: ignore[arg-type]
    po.PerceptualLoss.preset("johnson-style", gram_over="clips", chunks=4)  # type: ignore[arg-type,call-arg]
    po.PerceptualLoss("vgg15")  # type: ignore[arg-type]
    po.PerceptualLoss("vgg16", content_distance="l2")  # type: ignore[arg-type]
    po.PerceptualLoss("vgg16", style_distance="cosine")  # type: ignore[arg-type]
    po.PerceptualLoss("vgg16", gram_normalize="CHW")  # type: ignore[arg-type]
    po.PerceptualLoss("vgg16", gram_over="clips")  # type: ignore[arg-type]
    po.PerceptualLoss("vgg16", style_statistics="mean")  # type: ignore[arg-type]
    po.PerceptualLoss("vgg16", reduction="average")  # type: ignore[arg-type]
    po.PerceptualLoss("vgg16", resize_mode="nearest")  # type: ignore[arg-type]
    po.PerceptualLoss("vgg16", backend="cuda")  # type: ignore[arg-type]
    po.PerceptualLoss("vgg16", engine="eager")  # type: ignore[arg-type]
    po.PerceptualLoss("vgg16", compute_dtype="int8")  # type: ignore[arg-type]
    po.PerceptualLoss("vgg16", content_layers=["relu3_3"], style_layer={})  # type: ignore[call-arg]
    po.PerceptualLoss.preset("johnson")  # type: ignore[arg-type]
    po.LPIPS("vgg19")  # type: ignore[arg-type]
    po.LPIPS(version="0.2")  # type: ignore[arg-type]
    po.load_network("resnet50")  # type: ignore[arg-type]
    po.load_network("vgg19", "path/of.pth", pooling="min")  # type: ignore[arg-type]


def attributes(loss: po.PerceptualLoss, metric: po.LPIPS) -> None:
    loss.content_layers = {"relu3_3": 2.0}
    assert_type(loss.content_layers, tuple[str, ...])
    loss.input_size = 224
    assert_type(loss.input_size, tuple[int, int] | None)
    loss.compute_dtype = "float16"
    assert_type(loss.compute_dtype, torch.dtype | None)
    loss.reduction = "none"
    assert_type(metric.network_layers, list[str])
    assert_type(metric.layers, tuple[str, ...])
    metric.spatial = True
    loss.reduction = "average"  # type: ignore[assignment]
    loss.content_layers = 3  # type: ignore[assignment]
    metric.version = "0.0"  # type: ignore[assignment]


def operators(x: Tensor, y: Tensor, spatial: bool) -> None:
    assert_type(po.gram_matrix(x, "hw"), Tensor)
    assert_type(po.feature_loss([x], [y], distance="cosine"), Tensor)
    assert_type(po.lpips_distance([x], [y], [x]), Tensor)
    assert_type(po.lpips_distance([x], [y], [x], spatial=True), list[Tensor])
    assert_type(reference.lpips_distance([x], [y], [x], spatial=spatial), Tensor | list[Tensor])
    assert_type(po.load_network("alex")(x), dict[str, Tensor])
    po.gram_matrix(x, "wh")  # type: ignore[arg-type]
    po.style_loss([x], [y], distance="cosine")  # type: ignore[arg-type]
    po.total_variation(x, "l3")  # type: ignore[arg-type]
    po.lpips_distance([x], [y], [x], reduction="mean", spatial=True)  # type: ignore[call-overload]


def drop_ins(x: Tensor, y: Tensor, both: bool) -> None:
    loss = lpips.LPIPS(net="vgg")
    assert_type(loss(x, y), Tensor)
    assert_type(loss(x, y, normalize=True), Tensor)
    assert_type(loss(x, y, retPerLayer=True), Layers)
    assert_type(loss(x, y, both), Tensor | Layers)
    assert_type(loss.chns, list[int])
    assert_type(lpips_pytorch.LPIPS("alex")(x, y), Tensor)
    assert_type(taming.LPIPS()(x, y), Tensor)
    assert_type(piqa.LPIPS(reduction="none")(x, y), Tensor)
    assert_type(dists.DISTS()(x, y, require_grad=True, batch_average=True), Tensor)
    assert_type(piq.ContentLoss("vgg19", ["conv5_4"], distance="mae")(x, y), Tensor)
    assert_type(piq.TVLoss("l1")(x), Tensor)
    assert_type(basicsr.PerceptualLoss({"conv5_4": 1.0})(x, y), tuple[Tensor | None, Tensor | None])
    assert_type(basicsr.WeightedTVLoss()(x), Tensor)
    assert_type(torchmetrics.LearnedPerceptualImagePatchSimilarity("squeeze")(x, y), Tensor)
    lpips.DSSIM()  # type: ignore[attr-defined]
    loss(x, y, retPerLayer="yes")  # type: ignore[call-overload]
    lpips.LPIPS(net="vgg19")  # type: ignore[arg-type]
    piqa.LPIPS("vgg16")  # type: ignore[arg-type]
    piq.ContentLoss("vgg11")  # type: ignore[arg-type]
    piq.StyleLoss(distance="l2")  # type: ignore[arg-type]
    basicsr.PerceptualLoss({}, criterion="mse")  # type: ignore[arg-type]
    basicsr.WeightedTVLoss(reduction="none")  # type: ignore[arg-type]
    torchmetrics.TotalVariation("average")  # type: ignore[arg-type]


def names_to_annotate_with(distance: names.Distance, reduction: Literal["mean", "sum"], text: str) -> None:
    po.PerceptualLoss("vgg16", content_distance=distance, reduction=reduction)
    po.PerceptualLoss("vgg16", weights=text)
    po.PerceptualLoss(text)  # type: ignore[arg-type]

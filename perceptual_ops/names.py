"""The names that arguments take, as types to annotate your own functions with::

    from perceptual_ops.names import FeatureDistance

    def criterion(distance: FeatureDistance) -> po.PerceptualLoss:
        return po.PerceptualLoss("vgg16", content_distance=distance)

Arguments are checked against the same lists.
"""

from __future__ import annotations

from typing import Literal

Distance = Literal["mse", "l1", "charbonnier", "huber", "sse"]
FeatureDistance = Literal[Distance, "cosine"]  # of two Grams' channels nobody asks for the angle
GramNormalization = Literal["none", "hw", "chw"]
GramSpan = Literal["frame", "clip"]
StyleStatistics = Literal["gram", "mean_std", "both"]
FeatureNormalization = Literal["none", "channel"]
Variation = Literal["l1", "l2_squared", "l2"]
BatchReduction = Literal["mean", "sum"]
Reduction = Literal[BatchReduction, "none"]

Backend = Literal["auto", "native", "reference"]
Engine = Literal["lean", "autograd"]
ComputeDtype = Literal["float32", "float16", "bfloat16"]

TileSize = int | Literal["auto"]

Interpolation = Literal["bilinear", "bicubic"]
ResizeMode = Literal[Interpolation, "center_crop", "random_crop"]

Pooling = Literal["max", "average", "blur", "l2"]
# What the package lpips calls some of the networks.
Alias = Literal["vgg", "alex", "squeeze"]
LpipsTrunk = Literal["vgg16", "alexnet", "squeezenet1_1"]
LpipsName = Literal[LpipsTrunk, Alias]
VggName = Literal["vgg11", "vgg13", "vgg16", "vgg19"]
Architecture = Literal[VggName, "alexnet", "squeezenet1_1"]
ChainName = Literal[Architecture, Alias]
PublishedName = Literal["convnext_small", "resnet50", "dinov2_base"]
NetworkName = Literal[ChainName, PublishedName]
LpipsVersion = Literal["0.1", "0.0"]
TrunkWeights = Literal["imagenet", "stlpips", "random"]
WeightsName = Literal[TrunkWeights, "lvd142m"]  # the last of "dinov2_base"; any other string is a path

Preset = Literal[
    "johnson-style", "johnson-sr", "gatys", "srgan", "esrgan", "pix2pixhd", "titok", "maskbit", "dino-perceptual",
    "pixelgen",
]  # fmt: skip

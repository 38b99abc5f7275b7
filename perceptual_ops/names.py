"""The names that arguments take, as types to annotate your own functions with::

    from perceptual_ops.names import FeatureDistance

    def criterion(distance: FeatureDistance) -> po.PerceptualLoss:
        return po.PerceptualLoss("vgg16", content_distance=distance)

Arguments are checked against the same lists.
"""

from __future__ import annotations

from typing import Literal

#: How Grams are compared, see `perceptual_ops.style_loss`.
Distance = Literal["mse", "l1", "charbonnier", "huber", "sse"]
#: How features are compared, see `perceptual_ops.feature_loss`. Grams have no "cosine".
FeatureDistance = Literal[Distance, "cosine"]
#: What a Gram is divided by, see `perceptual_ops.gram_matrix`.
GramNormalization = Literal["none", "hw", "chw"]
#: What a Gram of clips is over.
GramSpan = Literal["frame", "clip"]
#: What styles are compared by.
StyleStatistics = Literal["gram", "mean_std", "both"]
#: Whether features are brought to unit length before they are compared.
FeatureNormalization = Literal["none", "channel"]
#: Kinds of `perceptual_ops.total_variation`.
Variation = Literal["l1", "l2_squared", "l2"]
#: A reduction over the batch to a scalar.
BatchReduction = Literal["mean", "sum"]
#: A reduction over the batch.
Reduction = Literal[BatchReduction, "none"]

#: Which operators run, see `perceptual_ops.ops`.
Backend = Literal["auto", "native", "reference"]
#: How the network runs, see `perceptual_ops.losses.EngineOptions`.
Engine = Literal["lean", "autograd"]
#: dtype of a network's arithmetic.
ComputeDtype = Literal["float32", "float16", "bfloat16"]

#: Pixels on the side of a tile.
TileSize = int | Literal["auto"]

#: Antialiased ways to bring images to another size.
Interpolation = Literal["bilinear", "bicubic"]
#: How images are brought to `input_size`.
ResizeMode = Literal[Interpolation, "center_crop", "random_crop"]

#: Poolings of a network, see `perceptual_ops.load_network`.
Pooling = Literal["max", "average", "blur", "l2"]
#: What the package lpips calls some of the networks.
Alias = Literal["vgg", "alex", "squeeze"]
#: Networks of LPIPS.
LpipsTrunk = Literal["vgg16", "alexnet", "squeezenet1_1"]
#: Networks of LPIPS by all of their names.
LpipsName = Literal[LpipsTrunk, Alias]
#: The VGGs.
VggName = Literal["vgg11", "vgg13", "vgg16", "vgg19"]
#: Networks that `perceptual_ops.load_network` builds.
Architecture = Literal[VggName, "alexnet", "squeezenet1_1"]
#: The same by all of their names.
ChainName = Literal[Architecture, Alias]
#: Networks that other packages build, see `perceptual_ops.networks.published`.
PublishedName = Literal["convnext_small", "resnet50", "dinov2_base"]
#: Networks of `perceptual_ops.PerceptualLoss` by name.
NetworkName = Literal[ChainName, PublishedName]
#: Versions of LPIPS's linear weights.
LpipsVersion = Literal["0.1", "0.0"]
#: Sources of weights.
TrunkWeights = Literal["imagenet", "stlpips", "random"]
#: Sources of weights, that of "dinov2_base" among them; any other string is a path.
WeightsName = Literal[TrunkWeights, "lvd142m"]

#: Published settings, see `perceptual_ops.PerceptualLoss.preset`.
Preset = Literal[
    "johnson-style", "johnson-sr", "gatys", "srgan", "esrgan", "pix2pixhd", "titok", "maskbit", "dino-perceptual",
    "pixelgen",
]  # fmt: skip

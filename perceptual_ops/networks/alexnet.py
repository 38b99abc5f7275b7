"""AlexNet as torchvision has it (Krizhevsky 2014, arXiv 1404.5997), and its shift-tolerant form, as data."""

from __future__ import annotations

from .layers import Conv, Layer, Pool, Relu

# What follows the first ReLU, in both forms.
_REST: tuple[Layer, ...] = (
    Pool("pool1", 64, kernel=3), Conv("conv2", 64, 192, kernel=5, padding=2), Relu("relu2"),
    Pool("pool2", 192, kernel=3), Conv("conv3", 192, 384), Relu("relu3"), Conv("conv4", 384, 256), Relu("relu4"),
    Conv("conv5", 256, 256), Relu("relu5"), Pool("pool5", 256, kernel=3),
)  # fmt: skip

ALEXNET: tuple[Layer, ...] = (Conv("conv1", 3, 64, kernel=11, stride=4, padding=2), Relu("relu1"), *_REST)

# Of stlpips (Ghildyal and Liu 2022, arXiv 2207.13686): the first stride, too, is a blur, at every other pixel.
BLURRED_ALEXNET: tuple[Layer, ...] = (
    Conv("conv1", 3, 64, kernel=11, stride=1, padding=2), Pool("blur1", 64, kernel=1), Relu("relu1"), *_REST,
)  # fmt: skip

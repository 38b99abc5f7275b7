"""SqueezeNet 1.1 (Iandola et al. 2016, arXiv 1602.07360) as data, in torchvision's layer order."""

from __future__ import annotations

from .layers import Conv, Fire, Layer, Pool, Relu

SQUEEZENET: tuple[Layer, ...] = (
    Conv("conv1", 3, 64, kernel=3, stride=2, padding=0), Relu("relu1"), Pool("pool1", 64, kernel=3, ceil=True),
    Fire("fire2", 64, squeeze=16, expand=64), Fire("fire3", 128, squeeze=16, expand=64),
    Pool("pool3", 128, kernel=3, ceil=True),
    Fire("fire4", 128, squeeze=32, expand=128), Fire("fire5", 256, squeeze=32, expand=128),
    Pool("pool5", 256, kernel=3, ceil=True),
    Fire("fire6", 256, squeeze=48, expand=192), Fire("fire7", 384, squeeze=48, expand=192),
    Fire("fire8", 384, squeeze=64, expand=256), Fire("fire9", 512, squeeze=64, expand=256),
)  # fmt: skip

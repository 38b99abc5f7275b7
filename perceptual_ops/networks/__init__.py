"""Frozen trunks that return features by layer name, and where their weights come from."""

from .feature_network import IMAGENET_MEAN, IMAGENET_STD, FeatureNetwork
from .layers import POOLINGS, Conv, Layer, Pool, Pooling, Relu
from .load import ARCHITECTURES, load_network
from .module_features import ModuleFeatures
from .weights import SOURCES, WeightFile, WeightSource, available

__all__ = [
    "ARCHITECTURES",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "POOLINGS",
    "SOURCES",
    "Conv",
    "FeatureNetwork",
    "Layer",
    "ModuleFeatures",
    "Pool",
    "Pooling",
    "Relu",
    "WeightFile",
    "WeightSource",
    "available",
    "load_network",
]

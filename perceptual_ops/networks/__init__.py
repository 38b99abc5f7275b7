"""Frozen trunks that return features by layer name, and where their weights come from."""

from ..names import Pooling
from .feature_network import IMAGENET_MEAN, IMAGENET_STD, FeatureNetwork
from .layers import POOLINGS, Conv, Fire, Layer, Pool, Relu
from .load import ALIASES, ARCHITECTURES, checked_network, full_name, load_network
from .metric_weights import DISTS_CHANNELS, LPIPS_VERSIONS, dists_weights, linear_weights
from .module_features import ModuleFeatures
from .weights import SOURCES, WeightFile, WeightSource, available

__all__ = [
    "ALIASES",
    "ARCHITECTURES",
    "DISTS_CHANNELS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "LPIPS_VERSIONS",
    "POOLINGS",
    "SOURCES",
    "Conv",
    "FeatureNetwork",
    "Fire",
    "Layer",
    "ModuleFeatures",
    "Pool",
    "Pooling",
    "Relu",
    "WeightFile",
    "WeightSource",
    "available",
    "checked_network",
    "dists_weights",
    "full_name",
    "linear_weights",
    "load_network",
]

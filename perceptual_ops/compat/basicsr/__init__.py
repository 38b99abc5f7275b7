"""BasicSR's PerceptualLoss and WeightedTVLoss (basicsr/losses/basic_loss.py, basicsr/archs/vgg_arch.py)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .._missing import missing_names
from .perceptual import PerceptualLoss
from .variation import WeightedTVLoss

__all__ = ["PerceptualLoss", "WeightedTVLoss", "register"]

_PIXEL_LOSS = "it holds no network, so import BasicSR's own from basicsr.losses.basic_loss"
_MISSING = {
    "L1Loss": _PIXEL_LOSS,
    "MSELoss": _PIXEL_LOSS,
    "CharbonnierLoss": _PIXEL_LOSS,
    "VGGFeatureExtractor": "use perceptual_ops.load_network(vgg_type, weights, layers=layer_name_list); images in "
    "[0, 1] give a dict of maps by layer name",
}
if not TYPE_CHECKING:  # which refuses such names itself
    __getattr__ = missing_names(__name__, _MISSING)


def register(registry: Any = None, suffix: str = "perceptual_ops") -> None:
    """Makes these losses known to BasicSR's `build_loss`, so that one word of an options file switches to them.

    After `register()`, somewhere before the model is built, `type: PerceptualLoss` of the options becomes
    `type: PerceptualLoss_perceptual_ops`, likewise `WeightedTVLoss`. A second call changes nothing.

    Args:
        registry: A registry of BasicSR's. None: `basicsr.utils.registry.LOSS_REGISTRY`.
        suffix: What follows the name and an underscore.

    Raises:
        ModuleNotFoundError: No registry was given, and BasicSR, or a module that it imports, is not installed.
    """
    if registry is None:
        try:
            registry = importlib.import_module("basicsr.utils.registry").LOSS_REGISTRY
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"registry: expected BasicSR's, whose import says {error}; pip install basicsr, or pass registry=",
                name=error.name,
            ) from error
    for loss in (PerceptualLoss, WeightedTVLoss):
        if f"{loss.__name__}_{suffix}" not in registry:
            registry.register(loss, suffix=suffix)

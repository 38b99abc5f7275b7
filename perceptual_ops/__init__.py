"""Fused, differentiable perceptual losses for PyTorch."""

import importlib
from typing import TYPE_CHECKING, Any

from . import _program, reference  # noqa: F401  # the first before torch, which reference imports
from .metric_ops import dists_distance, lpips_distance
from .ops import channel_statistics, feature_loss, gram_matrix, style_loss, total_variation

if TYPE_CHECKING:
    from . import distributed
    from . import losses as losses  # `x as x`: for type checkers an attribute of the package, though not in __all__
    from . import networks as networks
    from .losses import DISTS, LPIPS, PerceptualLoss, chunked, gradient_of
    from .networks import load_network

__version__ = "0.1.0"

__all__ = [
    "DISTS",
    "LPIPS",
    "PerceptualLoss",
    "channel_statistics",
    "chunked",
    "distributed",
    "dists_distance",
    "feature_loss",
    "gradient_of",
    "gram_matrix",
    "load_network",
    "lpips_distance",
    "reference",
    "style_loss",
    "total_variation",
]

_ROOMS = ("distributed", "losses", "networks")
_FROM_ROOMS = {
    **dict.fromkeys(("DISTS", "LPIPS", "PerceptualLoss", "chunked", "gradient_of"), "losses"),
    "load_network": "networks",
}


if not TYPE_CHECKING:  # where any name would do

    def __getattr__(name: str) -> Any:
        """What `import perceptual_ops` does not take time for: imported when it is first asked for."""
        if name in _ROOMS:
            return importlib.import_module(f".{name}", __name__)
        if name not in _FROM_ROOMS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{_FROM_ROOMS[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, *_FROM_ROOMS})

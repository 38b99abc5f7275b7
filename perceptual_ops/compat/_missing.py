"""Names of the library stood in for that are not here, and what to use instead."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ClassVar

from torch import Tensor, nn


class SaysWhatIsMissing(nn.Module):
    """A module that names the remedy where an attribute of its peer is read or set.

    Attributes:
        missing: Name -> what to use instead, half a sentence.
    """

    missing: ClassVar[Mapping[str, str]] = {}

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        if name in type(self).missing:
            raise AttributeError(self._remedy(name))
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in type(self).missing:
            raise AttributeError(self._remedy(name))
        super().__setattr__(name, value)

    def _remedy(self, name: str) -> str:
        return f"{type(self).__name__}.{name}: not here; {self.missing[name]}"


def missing_names(module: str, names: Mapping[str, str] | str) -> Callable[[str], Any]:
    """The `__getattr__` of a module that lacks `names` of its peer, each with what to use instead.

    A sentence in place of the names says it for all: the module has none.
    """

    def get(name: str) -> Any:
        if name.startswith("__") or (not isinstance(names, str) and name not in names):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        instead = names if isinstance(names, str) else names[name]
        raise ImportError(f"{module}.{name}: not here; {instead}", name=module)

    return get


# Libraries that have no module here.
LIBRARIES = {
    "monai": "for PerceptualLoss use perceptual_ops.LPIPS, of a volume on its slices (N, 1, H, W)",
    "pyiqa": 'for create_metric use perceptual_ops.LPIPS(input_range=(0, 1)) as "lpips", DISTS() as "dists"',
    "stlpips_pytorch": 'for LPIPS use perceptual_ops.compat.lpips.LPIPS(net=..., weights="stlpips")',
}


def add_missing_libraries(package: str) -> None:
    """Makes the libraries above importable as modules of a package, so that each name imported from them says it."""
    for library, instead in LIBRARIES.items():
        module = ModuleType(f"{package}.{library}", f"Not here; {instead}.")
        module.__spec__ = ModuleSpec(module.__name__, None)
        vars(module)["__getattr__"] = missing_names(module.__name__, instead)
        sys.modules[module.__name__] = module
        setattr(sys.modules[package], library, module)

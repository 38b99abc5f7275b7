"""Names of the library stood in for that are not here, and what to use instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import nn


class SaysWhatIsMissing(nn.Module):
    """A module that names the remedy where an attribute of its peer is read or set.

    Attributes:
        missing: Name -> what to use instead, half a sentence.
    """

    missing: ClassVar[Mapping[str, str]] = {}

    def __getattr__(self, name: str) -> Any:
        if name in type(self).missing:
            raise AttributeError(self._remedy(name))
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in type(self).missing:
            raise AttributeError(self._remedy(name))
        super().__setattr__(name, value)

    def _remedy(self, name: str) -> str:
        return f"{type(self).__name__}.{name}: not here; {self.missing[name]}"


def missing_names(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module that lacks `names` of its peer, each with what to use instead."""

    def get(name: str) -> Any:
        if name in names:
            raise ImportError(f"{module}.{name}: not here; {names[name]}", name=module)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return get

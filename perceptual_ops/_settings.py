"""Attributes of modules that users set at any time: checked when set and read at each call, or fixed.

A plain attribute of a module takes any value and has an effect only where the forward happens to read it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn
from typing_extensions import Never

from ._module import Module

Held = TypeVar("Held", covariant=True)
Given = TypeVar("Given", contravariant=True)


class Converted(Protocol[Held, Given]):
    """The type of a setting that is read as another type than it is set as."""

    def __get__(self, module: nn.Module, kind: type | None = None) -> Held: ...

    def __set__(self, module: nn.Module, value: Given) -> None: ...


Fixed = Converted[Held, Never]  # an attribute that is only read


class ModuleWithSettings(Module):
    """A module whose `setting` and `fixed` attributes check every value, even a module or a parameter."""

    def __setattr__(self, name: str, value: Any) -> None:
        attribute = getattr(type(self), name, None)
        if isinstance(attribute, property):  # nn.Module would register a module under the name, past the property
            attribute.__set__(self, value)
        else:
            super().__setattr__(name, value)


def setting(
    name: str, check: Callable[[str, Any], Any], changed: Callable[[Any], None] | None = None
) -> Any:  # a property, typed as what it holds
    """A setting of a module, at construction as later.

    Args:
        name: Of the attribute; its value is kept as `_<name>`.
        check: (name, value) -> what is kept; raises TypeError or ValueError for an invalid value.
        changed: Called with the module after the value changed, to recompute what depends on it.
    """
    kept = f"_{name}"

    def set_value(module: nn.Module, value: object) -> None:
        value, is_first = check(name, value), kept not in module.__dict__
        object.__setattr__(module, kept, value)
        if changed and not is_first:
            changed(module)

    return property(lambda module: getattr(module, kept), set_value, doc=f"Setting {name}.")


def fixed(name: str, kept: str = "", read: Callable[[Any], Any] | None = None) -> Any:
    """A read-only attribute that is set at construction, as `_<name>` or `kept`.

    `read` computes it from the module if nothing is stored. Without either, as for weights, which may be large, reading
    raises AttributeError.
    """
    kept = kept or f"_{name}"

    def refuse(module: nn.Module, value: object) -> None:
        came = f"a {type(value).__name__}" if isinstance(value, nn.Module | Tensor) else repr(value)  # of many lines
        raise AttributeError(
            f"{name}: fixed when the {type(module).__name__} is made, got {came} later; make another one with it"
        )

    get = read or (lambda module: getattr(module, kept))
    return property(get, refuse, doc=f"{name}, as the module was made with.")


def passed_on(
    name: str, to: str = "_loss", known_as: str = "", check: Callable[[str, Any], Any] = lambda name, value: value
) -> Any:
    """A setting that is delegated to a submodule.

    Args:
        name: Of the attribute.
        to: The attribute that is the submodule.
        known_as: Name of the setting there, if different.
        check: (name, value) -> what is passed on.
    """
    known_as = known_as or name

    def set_value(module: nn.Module, value: object) -> None:
        setattr(getattr(module, to), known_as, check(name, value))

    return property(lambda module: getattr(getattr(module, to), known_as), set_value, doc=f"Setting {name}.")

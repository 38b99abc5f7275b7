"""Settings as arguments of an operator: encoded and decoded here, whatever the operator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_origin, get_type_hints

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

# Schema types by field type. Operators take no lists of strings, so names are joined by newlines.
ARGUMENTS: dict[Any, str] = {
    str: "str", bool: "bool", int: "int", float: "float", torch.dtype: "ScalarType", Tensor: "Tensor",
    Tensor | None: "Tensor?",
    tuple[float, ...]: "float[]", tuple[str, ...]: "str",
}  # fmt: skip


class OperatorSettings:
    """A dataclass whose fields are arguments of an operator; a nested OperatorSettings is flattened.

    To add a setting, add a field: the operator's schema, encoding and decoding follow from its type.
    """

    _types: ClassVar[dict[str, Any]]
    _fields: ClassVar[tuple[str, ...]]  # tuples, since Dynamo of torch 2.4 traces those
    _names: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        hints = get_type_hints(cls)
        cls._types = {field: _argument_type(hints[field]) for field in cls.__annotations__}
        cls._fields = tuple(cls._types)
        cls._names = tuple(field for field, kind in cls._types.items() if kind == tuple[str, ...])

    @classmethod
    def schema(cls, prefix: str = "") -> str:
        """The arguments, as a part of an operator's schema; `prefix` goes before each name."""
        parts = []
        for field, kind in cls._types.items():
            if _is_settings(kind):
                parts.append(kind.schema(f"{prefix}{field}_"))
            elif kind in ARGUMENTS:
                parts.append(f"{ARGUMENTS[kind]} {prefix}{field}")
            else:
                raise TypeError(f"{cls.__name__}.{field}: expected a type of {list(ARGUMENTS)}, got {kind}")
        return ", ".join(parts)

    def encoded(self) -> list[Any]:
        """The arguments of these settings; torch.compile traces it."""
        values: list[Any] = []
        for field in self._fields:
            value = getattr(self, field)
            if isinstance(value, OperatorSettings):
                values += value.encoded()
            elif field in self._names:
                values.append("\n".join(value))
            else:
                values.append(list(value) if isinstance(value, tuple) else value)
        return values

    @classmethod
    def decoded(cls, arguments: Iterator[Any]) -> Self:
        """The settings whose arguments come next."""
        values = []
        for field, kind in cls._types.items():
            value = kind.decoded(arguments) if _is_settings(kind) else next(arguments)
            if field in cls._names:
                value = layer_names(value)
            values.append(tuple(value) if isinstance(value, list) else value)
        return cls(*values)


def _argument_type(kind: Any) -> Any:
    return str if get_origin(kind) is Literal else kind


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, OperatorSettings)


def layer_names(layers: str) -> tuple[str, ...]:
    """Layer names from an operator's argument, which joins them by newlines."""
    return tuple(layers.split("\n")) if layers else ()

"""torch's Module with calls typed as its `forward`, where torch says Any."""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

from torch import nn

P = ParamSpec("P")
Result = TypeVar("Result", covariant=True)


class HasForward(Protocol[P, Result]):
    """Whatever has a `forward`."""

    def forward(self, *args: P.args, **kwargs: P.kwargs) -> Result: ...


if TYPE_CHECKING:

    class Module(nn.Module):
        """torch's Module.

        A checker takes only the first overload of a forward for its call: such a class has its overloads at `__call__`.
        """

        def __call__(self: HasForward[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
            """See `forward`."""
            ...

else:
    Module = nn.Module

"""piq asserts what its arguments must be, so a refusal of ours is an AssertionError to its callers, too."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class AssertedTypeError(TypeError, AssertionError):
    """An argument of a wrong type."""


class AssertedValueError(ValueError, AssertionError):
    """An argument of a wrong value or shape."""


@contextlib.contextmanager
def asserted() -> Iterator[None]:
    """Refusals that piq has as assertions are both."""
    try:
        yield
    except TypeError as error:
        raise AssertedTypeError(str(error)) from error
    except ValueError as error:
        raise AssertedValueError(str(error)) from error

"""Libraries that `perceptual_ops.compat` has no module for: importing from one says what to use."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys

import pytest

import perceptual_ops
from perceptual_ops.compat._missing import LIBRARIES


@pytest.mark.parametrize("library", LIBRARIES)
def test_importing_from_a_library_without_a_module_here_says_what_to_use(library: str) -> None:
    name = f"perceptual_ops.compat.{library}"
    module = importlib.import_module(name)
    with pytest.raises(ImportError, match=rf"^{name}\.LPIPS: not here; for \w+ use perceptual_ops\."):
        exec(f"from {name} import LPIPS")
    with pytest.raises(ImportError, match=rf"^{name}\.LPIPS: not here"):
        exec(f"from perceptual_ops.compat import {library}; {library}.LPIPS")
    assert getattr(perceptual_ops.compat, library) is module
    # What Python's own tools ask of any module.
    assert not hasattr(module, "__path__")
    assert importlib.util.find_spec(name) is not None
    assert (
        inspect.getmodule(test_importing_from_a_library_without_a_module_here_says_what_to_use) is sys.modules[__name__]
    )


def test_a_library_that_nobody_named_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("perceptual_ops.compat.piqaa")

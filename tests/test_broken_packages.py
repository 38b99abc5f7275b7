"""A package that is installed but does not load says why: it is not taken for one that is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from perceptual_ops.cli import progress
from perceptual_ops.compat.lpips import helpers
from perceptual_ops.networks import checkpoint_files
from perceptual_ops.recipes import model_file

CAUSE = "libc.so.6: version `GLIBC_2.99' not found"

USES: dict[str, Callable[[], object]] = {
    "safetensors.torch": model_file.installed_safetensors,
    "safetensors": lambda: checkpoint_files._load_safetensors(Path("weights.safetensors")),
    "tqdm": progress._tqdm,
    "skimage.metrics": lambda: helpers.dssim(np.zeros((9, 9, 3)), np.ones((9, 9, 3))),
}


@pytest.mark.parametrize("package", USES)
def test_the_cause_is_told(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, *_: object) -> ModuleSpec | None:
        if name == package:
            raise ImportError(CAUSE)
        return None

    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=broken), *sys.meta_path])
    with pytest.raises(ImportError, match=r"GLIBC_2\.99") as raised:
        USES[package]()
    assert not isinstance(raised.value, ModuleNotFoundError)


@pytest.mark.parametrize("package", USES)
def test_a_missing_package_is_advised(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    top = package.partition(".")[0]
    for name in [name for name in sys.modules if name.startswith(f"{top}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, top, None)
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        USES[package]()

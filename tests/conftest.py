"""Devices and backends that the suite runs on.

`pytest --backend reference` makes "auto" everywhere the PyTorch reference; tests of the compiled operators are skipped.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import pytest
import torch

from perceptual_ops import _native, ops

# The kernels' execution on the CPU is built with pybind11 and CMake; a GPU machine that lacks them has the real thing.
collect_ignore_glob = [] if find_spec("pybind11") and shutil.which("g++") else ["test_host_*"]

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", choices=["auto", "reference"], default="auto", help='what backend="auto" runs')


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--backend") == "reference":
        reason = "pytest --backend reference"
        ops.native = _native.NativeLibrary(reason, reason)
        _native._told.add(reason)  # the fallback's warning is what the option asks for


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def native(device: str) -> str:
    """The name of the compiled backend; skips where it does not serve the device."""
    refusal = ops.native.refusal(torch.device(device))
    if refusal:
        pytest.skip(refusal)
    return "native"


@pytest.fixture
def library() -> None:
    """Skips a test of the compiled operators, on the CPU, where they are left out."""
    if ops.native.reason:
        pytest.skip(ops.native.reason)


@pytest.fixture(params=["native", "reference"])
def backend(request: pytest.FixtureRequest, device: str) -> str:
    return request.getfixturevalue("native") if request.param == "native" else "reference"


@pytest.fixture
def on_device(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `metrics` makes is made on each device."""
    monkeypatch.setattr("metrics.DEVICE", device)

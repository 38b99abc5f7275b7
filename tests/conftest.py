"""Devices and backends that the suite runs on.

Where the compiled library is not loaded, as with PERCEPTUAL_OPS_NATIVE=0, the operators' tests run on the plain ones.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Generator, Iterable, Iterator
from functools import lru_cache
from importlib.util import find_spec

import cuda_stub
import placement
import pytest
import torch
from torch import Tensor

from perceptual_ops import _native, ops
from perceptual_ops.networks import load
from perceptual_ops.networks.layers import Conv

# The kernels' execution on the CPU is built with pybind11 and CMake; a GPU machine that lacks them has the real thing.
collect_ignore_glob = [] if find_spec("pybind11") and shutil.which("g++") else ["test_host_*"]

# `-m cuda` are the tests that a GPU is needed for.
DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else [])]


class PlainOperators(_native.NativeLibrary):
    """Stands for the compiled library where it is not loaded: backend="native" runs the operators of `plain`."""

    def refusal(self, device: torch.device) -> str:
        return ""


def pytest_configure(config: pytest.Config) -> None:
    # On a GPU: else convolutions in fp32 would be as accurate as in fp16, and their gradients not the same twice.
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    if not _native.native.loaded:
        ops.native = PlainOperators("", "")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported stays: it is not looked through for garbage, now or while tests run; the rest is less often."""
    gc.disable()
    gc.set_threshold(20_000, 20, 100)
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def drawn_once() -> Iterator[None]:
    """The numbers of a "random" network are drawn once a process: those of a VGG16 take longer than many a test."""
    drawn = lru_cache(maxsize=16)(load.random_weights)

    def random_weights(convolutions: Iterable[Conv], seed: int) -> dict[str, Tensor]:
        with torch.inference_mode(False):  # others are to copy them
            return drawn(tuple(convolutions), seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "random_weights", random_weights)
        yield


@pytest.fixture
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings do not draw their logs: a plot takes longer than many steps of a small network."""
    monkeypatch.setattr("perceptual_ops.recipes.training_log.Log.draw", lambda log: None)


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


@pytest.fixture(scope="session")
def library() -> None:
    """Skips a test of what only the compiled operators do."""
    if _native.native.reason:
        pytest.skip(_native.native.reason)


@pytest.fixture(params=["native", "reference"])
def backend(request: pytest.FixtureRequest, device: str) -> str:
    return request.getfixturevalue("native") if request.param == "native" else "reference"


@pytest.fixture
def on_device(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each device; what is `placed` is made there."""
    monkeypatch.setattr(placement, "DEVICE", device)


@pytest.fixture
def graph_stub(monkeypatch: pytest.MonkeyPatch) -> cuda_stub.Stub:
    """CUDA graphs on the CPU."""
    return cuda_stub.install(monkeypatch)


@pytest.fixture
def graph_device(native: str, device: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A device that has CUDA graphs, of its own or a stub's."""
    if device == "cpu":
        cuda_stub.install(monkeypatch)
    return device

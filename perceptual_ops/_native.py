"""Loads the compiled operators once and says, in one sentence, why they or their CUDA part are absent."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch

F = TypeVar("F", bound=Callable[..., object])

LIBRARY = Path(__file__).with_name("_C.so")


@dataclass(frozen=True)
class NativeLibrary:
    """State of the compiled library.

    Attributes:
        reason: Why there are no compiled operators; empty where they are loaded.
        cuda_reason: Why they do not serve CUDA tensors; empty where they do.
        build_info: What the library says of its build: version, compiler, CUDA toolkit and architectures.
    """

    reason: str
    cuda_reason: str
    build_info: dict[str, str] = field(default_factory=dict)

    @property
    def loaded(self) -> bool:
        return not self.reason

    def refusal(self, device: torch.device) -> str:
        """Why tensors on this device are not served; empty where they are."""
        if self.reason or device.type == "cpu":
            return self.reason
        if device.type != "cuda":
            return f"the compiled operators serve cpu and cuda tensors, not {device.type}"
        # torch.compile cannot trace the question to the device: there the operator itself says what it lacks.
        if self.cuda_reason or torch.compiler.is_compiling():
            return self.cuda_reason
        return _unserved_device(self.build_info["cuda_architectures"], device.index or 0)


@cache
def _unserved_device(architectures: str, index: int) -> str:
    """Why no kernel of these architectures runs on a CUDA device; empty where one does."""
    if torch.version.hip:
        return "the compiled operators are built for CUDA, not for ROCm"
    major, minor = torch.cuda.get_device_capability(index)
    built = [int(name) for name in architectures.split() if name.isdigit()]
    # Machine code runs on later devices of its generation; PTX, embedded for the newest, on whatever follows it.
    if any(number // 10 == major and number % 10 <= minor for number in built) or 10 * major + minor > max(built):
        return ""
    return (
        f"{LIBRARY.name} has no kernel for cuda:{index} of capability {major}.{minor}, only for {architectures}; "
        f"build it with PERCEPTUAL_OPS_CUDA_ARCHS={major}{minor}"
    )


def _load() -> NativeLibrary:
    if not LIBRARY.exists():
        reason = f"{LIBRARY.name} is not built: run `pip install --no-build-isolation .` where torch is installed"
        return NativeLibrary(reason, reason)
    try:
        torch.ops.load_library(str(LIBRARY))
    except OSError as error:
        reason = (
            f"{LIBRARY.name} does not load with torch {torch.__version__} (it needs torch >= 2.10 for Linux "
            f"on this kind of processor): {error}"
        )
        return NativeLibrary(reason, reason)
    info = dict(line.split("=", 1) for line in torch.ops.perceptual_ops.build_info().splitlines())
    cuda_reason = ""
    if not info["cuda"]:
        cuda_reason = f"{LIBRARY.name} has no CUDA part: {info['cuda_reason']}"
    return NativeLibrary("", cuda_reason, info)


native = _load()

_told: set[str] = set()


def constant_when_compiled(function: F) -> F:
    """torch.compile runs the function once while it traces, and keeps its graph whole.

    As `torch.compiler.assume_constant_result`, which imports torch._dynamo and so takes half of this library's import.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_when_compiled
def fall_back(reason: str) -> bool:
    """Warns once, for each reason, that the reference runs in place of the compiled operators."""
    if reason not in _told:
        _told.add(reason)
        warnings.warn(f"perceptual_ops runs its slower PyTorch reference: {reason}", RuntimeWarning, stacklevel=4)
    return True

"""Loads the compiled operators once and says, in one sentence, why they or their CUDA part are absent."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch

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

    def refusal(self, device_type: str) -> str:
        """Why tensors on a device of this type are not served; empty where they are."""
        if self.reason:
            return self.reason
        if device_type == "cpu":
            return ""
        if device_type == "cuda":
            return self.cuda_reason
        return f"the compiled operators serve cpu and cuda tensors, not {device_type}"


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


def fall_back(reason: str) -> None:
    """Warns once, for each reason, that the reference runs in place of the compiled operators."""
    if reason not in _told:
        _told.add(reason)
        warnings.warn(f"perceptual_ops runs its slower PyTorch reference: {reason}", RuntimeWarning, stacklevel=4)

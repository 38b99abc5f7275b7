"""Loads the compiled operators once and says, in one sentence, why they or their CUDA part are absent."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch

from . import _failures
from ._library_file import explained, fault_of, find_library

F = TypeVar("F", bound=Callable[..., object])

LIBRARY = Path(__file__).with_name("_C.so")
LEAST_TORCH = 2, 10  # whose stable ABI the library is built for
LEAST_CAPABILITY = 8, 0  # of a GPU; cp.async needs it
SWITCH = "PERCEPTUAL_OPS_NATIVE"  # an environment variable; 0: plain PyTorch alone
SWITCHED_OFF = f"{SWITCH}=0 in the environment"
BESIDE_A_SERVED_GPU = (
    "; another GPU here is served, so losses run under ordinary autograd on this one, with its memory: set "
    f"{SWITCH}=0 for the lean engine on both"
)


@dataclass(frozen=True)
class NativeLibrary:
    """State of the compiled library.

    Attributes:
        reason: Why there are no compiled operators; empty if they are loaded.
        cuda_reason: Why they do not serve CUDA tensors; empty where they do.
        build_info: Build of the library: version, compiler, CUDA toolkit and architectures.
        file: The library, beside the code or in an installed copy.
        is_broken: Whether there is a library that does not load.
    """

    reason: str
    cuda_reason: str
    build_info: dict[str, str] = field(default_factory=dict)
    file: Path = LIBRARY
    is_broken: bool = False

    @property
    def loaded(self) -> bool:
        return not self.reason

    def refusal(self, device: torch.device) -> str:
        """Why tensors on this device are not served; empty where they are."""
        if self.reason or device.type == "cpu":
            return self.reason
        if device.type != "cuda":
            return f"the compiled operators serve cpu and cuda tensors, not {device.type}"
        if self.cuda_reason:
            return self.cuda_reason
        return _unserved_gpu(self.build_info["cuda"], self.build_info["cuda_architectures"], device.index or 0)

    def serves_a_gpu(self) -> bool:
        """Whether one of this machine's GPUs is served."""
        built = self.build_info.get("cuda", ""), self.build_info.get("cuda_architectures", "")
        return not self.reason and not self.cuda_reason and _serves_a_gpu(*built)


def constant_when_compiled(function: F) -> F:
    """Marks a function that torch.compile runs once while tracing, without a graph break.

    As `torch.compiler.assume_constant_result`, which imports torch._dynamo and so takes half of this library's import
    time. The mark is private to torch; a test compares the two.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_when_compiled
def _unserved_gpu(toolkit: str, architectures: str, index: int) -> str:
    """Why a GPU does not run the kernels that a toolkit compiled for these architectures; empty where it does."""
    lacks = _gpu_lacks(toolkit, architectures, index)
    return lacks + BESIDE_A_SERVED_GPU if lacks and _serves_a_gpu(toolkit, architectures) else lacks


@constant_when_compiled
def _serves_a_gpu(toolkit: str, architectures: str) -> bool:
    return any(not _gpu_lacks(toolkit, architectures, index) for index in range(torch.cuda.device_count()))


@cache
def _gpu_lacks(toolkit: str, architectures: str, index: int) -> str:
    if torch.version.hip:
        return "the compiled operators are built for CUDA, not for ROCm"
    major, minor = torch.cuda.get_device_capability(index)
    if (major, minor) < LEAST_CAPABILITY:
        least = ".".join(map(str, LEAST_CAPABILITY))
        return f"the kernels need a GPU of capability {least} or newer, cuda:{index} is of capability {major}.{minor}"
    driver, needed = driver_version(), tuple(map(int, toolkit.split(".")))
    # A driver runs machine code of every toolkit of its major and of older ones, but PTX of none newer than itself.
    if driver[0] < needed[0]:
        return (
            f"{LIBRARY.name} is built by CUDA {toolkit} and needs an NVIDIA driver for CUDA {needed[0]} or newer, this "
            f"one is for {driver[0]}.{driver[1]}; update it, or build from source by CUDA {driver[0]}"
        )
    built = [int(name) for name in architectures.split() if name.isdigit()]
    remedy = f"build from source with PERCEPTUAL_OPS_CUDA_ARCHS={major}{minor}"
    # Machine code runs on later devices of its generation; PTX, embedded for the newest, on whatever follows it.
    if any(number // 10 == major and number % 10 <= minor for number in built):
        return ""
    if 10 * major + minor < max(built):
        return (
            f"{LIBRARY.name} has no kernel for cuda:{index} of capability {major}.{minor}, only for {architectures}; "
            f"{remedy}"
        )
    if driver < needed:
        return (
            f"{LIBRARY.name} has only PTX of CUDA {toolkit} for cuda:{index} of capability {major}.{minor}, which a "
            f"driver for {driver[0]}.{driver[1]} does not read; update the NVIDIA driver, or {remedy}"
        )
    return ""


def driver_version() -> tuple[int, int]:
    """The newest CUDA, (major, minor), that the NVIDIA driver knows."""
    version = ctypes.c_int()
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))  # loaded wherever torch sees a GPU
    return version.value // 1000, version.value % 1000 // 10


def _load() -> NativeLibrary:
    library, reason = (None, unwanted) if (unwanted := _why_not_wanted()) else find_library(LIBRARY)
    if library is None:
        return NativeLibrary(reason, reason)
    if fault := fault_of(library) or _loaders_error(library):
        reason = f"{library.name if library == LIBRARY else library} does not load: {fault}"
        return NativeLibrary(reason, reason, is_broken=True)
    info = dict(line.split("=", 1) for line in torch.ops.perceptual_ops.build_info().splitlines())
    cuda_reason = ""
    if not info["cuda"]:
        cuda_reason = f"{LIBRARY.name} has no CUDA part: {info['cuda_reason']}"
    return NativeLibrary("", cuda_reason, info, library)


def _loaders_error(library: Path) -> str:
    """Loads the library; why that fails, or an empty string."""
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return explained(_failures.reason(error.__cause__ or error), torch.__version__)
    return ""


def _why_not_wanted() -> str:
    """Why no library is searched for; empty if one is.

    Raises:
        ValueError: Another value of the environment variable.
    """
    value = os.environ.get(SWITCH, "")
    if value not in ("", "0", "1"):
        raise ValueError(
            f'{SWITCH}: expected "0", which chooses plain PyTorch, "1" or nothing, got {value!r} in the environment; '
            f"set it to one of these, or unset it"
        )
    if value == "0":
        return SWITCHED_OFF
    if not sys.platform.startswith("linux"):
        return f"the compiled operators are for Linux, this is {sys.platform}"
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < LEAST_TORCH:
        return f"the compiled operators need torch >= {LEAST_TORCH[0]}.{LEAST_TORCH[1]}, this is {torch.__version__}"
    return ""


native = _load()

# No warning for what the user chose or cannot have: `doctor` reports both.
_told: set[str] = {_why_not_wanted()}


@constant_when_compiled
def fall_back(reason: str) -> bool:
    """Warns once per reason that plain PyTorch replaces the compiled operators."""
    if reason not in _told:
        _told.add(reason)
        warnings.warn(f"perceptual_ops runs in plain PyTorch: {reason}", RuntimeWarning, stacklevel=5)
    return True

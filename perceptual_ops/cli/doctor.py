"""The command `perceptual-ops doctor`: what is installed, what works, and what to do about the rest."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from typing import Any

import torch

from .. import __version__, gram_matrix, reference
from .._native import LIBRARY, native
from .._program import PROGRAM
from ..networks.weights import available

EXTRAS = {"cli": ("numpy", "pillow", "safetensors", "tqdm"), "demo": ("matplotlib", "scikit-image")}


def register(commands: Any) -> None:
    command = commands.add_parser("doctor", help="say what is installed, what works, and what to do about the rest")
    command.set_defaults(command=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    """Prints what is there; 1 if the compiled operators are not loaded or fail where they should work."""
    failures = []
    _line("perceptual_ops", __version__)
    _line("torch", f"{torch.__version__}, built {_torch_cuda()}")
    _line("Python", f"{platform.python_version()} on {platform.platform()}")
    _line("library", f"{LIBRARY.name} is loaded" if native.loaded else native.reason)
    if native.loaded:
        _line("  built by", f"{native.build_info['compiler']}, for torch >= {native.build_info['torch_target']}")
        _line("  CUDA part", _cuda_part())
    for device, description in _devices():
        failure = _operator_failure(device)
        failures.append(failure and (device.type == "cpu" or not native.cuda_reason))
        _line(str(device), f"{description}; {failure or 'the compiled operators work'}")
    if not torch.cuda.is_available():
        _line("cuda", "no device that torch can use")
    for extra, packages in EXTRAS.items():
        versions = [f"{package} {_version(package)}" for package in packages]
        remedy = f"; pip install 'perceptual_ops[{extra}]'"
        _line(f"extra [{extra}]", ", ".join(versions) + (remedy if "missing" in " ".join(versions) else ""))
    for file in available():
        where = f"missing, {file.remedy}" + (f" to {file.path}" if file.path else "")
        _line(f"{file.source} {file.network}", f"present, {file.path}" if file.present else where)
    return 1 if any(failures) else 0


def version() -> str:
    """The versions of this package and of torch, and what the compiled library is built for."""
    built = f"compiled operators with {_cuda_part()}" if native.loaded and not native.cuda_reason else ""
    return f"{PROGRAM} {__version__}, torch {torch.__version__}, {built or native.reason or native.cuda_reason}"


def _cuda_part() -> str:
    info = native.build_info
    return native.cuda_reason or f"CUDA {info['cuda']} for architectures {info['cuda_architectures']}"


def _line(name: str, value: str) -> None:
    print(f"{name:<24} {value}")


def _torch_cuda() -> str:
    return f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"


def _devices() -> list[tuple[torch.device, str]]:
    """Each device torch can use, with its name and capability."""
    processor = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    devices = [(torch.device("cpu"), processor)]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        capability = f"compute capability {properties.major}.{properties.minor}"
        devices.append((torch.device("cuda", index), f"{properties.name}, {capability}, {memory:.0f} GiB"))
    return devices


def _operator_failure(device: torch.device) -> str:
    """Runs one compiled operator against its reference; why that fails, or nothing."""
    refusal = native.refusal(device)
    if refusal:
        return refusal
    try:
        x = torch.linspace(-1, 1, 2 * 8 * 12 * 12, device=device).reshape(2, 8, 12, 12)
        torch.testing.assert_close(gram_matrix(x, backend="native"), reference.gram_matrix(x))
    except Exception as error:  # a driver too old, no kernel for the device: whatever it is belongs in the report
        return f"a compiled operator fails: {' '.join(str(error).split())}"
    return ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"

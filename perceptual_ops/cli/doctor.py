"""The command `perceptual-ops doctor`: what is installed, what works, and what to do about the rest."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import re
import subprocess
import warnings
from pathlib import Path
from typing import Any

import torch

from .. import __version__, gram_matrix, reference
from .._failures import printable
from .._native import LIBRARY, driver_version, native
from .._program import PROGRAM
from ..networks.published import DINOV2, hub_cache, is_cached
from ..networks.weights import available
from ..ops import use_engine
from .terminal import checked_device, default_device

EXTRAS: dict[str, tuple[str, ...]] = {
    "cli": ("matplotlib", "numpy", "pillow", "safetensors", "tqdm"),
    "demo": ("scikit-image",),
    "networks": ("torchvision", "timm", "transformers"),
}


def register(commands: Any) -> None:
    command = commands.add_parser("doctor", help="say what is installed, what works, and what to do about the rest")
    command.add_argument(
        "--check",
        action="store_true",
        help="compare every operator with plain PyTorch in fp64, in every dtype, instead",
    )
    command.add_argument("--device", help="where --check runs; default: cuda where there is one, else cpu")
    command.set_defaults(command=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    if arguments.device is not None and not arguments.check:
        raise ValueError("--device: expected beside --check, since doctor alone looks at every device; leave it out")
    return _check(checked_device(arguments.device or default_device())) if arguments.check else _report()


def _check(device: torch.device) -> int:
    """Prints what tells one machine's results from another's, and a row for each operator and dtype; 1 if one fails."""
    from . import doctor_checks  # here, since it imports what no other command needs

    known = {(one.type, one.index or 0): description for one, description in _devices()}
    _line("device", f"{device}, {known.get((device.type, device.index or 0), 'which doctor does not know')}")
    _print_versions()
    if device.type == "cuda" and not torch.version.hip:
        _line("driver", _driver())
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        flags = f"TF32 in convolutions {cudnn.allow_tf32}, in products {matmul.allow_tf32}, benchmark {cudnn.benchmark}"
        _line("cuDNN", f"{cudnn.version()}; {flags}; --check runs without TF32")
    _line("operators", _form(device))
    if device.type == "mps":
        _line("", "--check needs fp64, which this device does not have")
        return 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was just said
        use_engine(device, "auto")
    print(doctor_checks.HEADER)
    failures = rows = 0
    for row in doctor_checks.check(device):
        rows, failures = rows + 1, failures + bool(row.problem)
        print(row, flush=True)  # at once: what comes next may end the process
    print(f"{failures} of {rows} rows fail" if failures else f"all {rows} rows are ok")
    return 1 if failures else 0


def _form(device: torch.device) -> str:
    """Which form of the operators runs on a device."""
    refusal = native.refusal(device)
    return f"plain PyTorch: {refusal}" if refusal else "compiled"


def _print_versions() -> None:
    commit = _commit()
    _line("perceptual_ops", f"{__version__}, commit {commit}" if commit else __version__)
    _line("torch", f"{torch.__version__}, built {_torch_cuda()}")
    _line("Python", f"{platform.python_version()} on {platform.platform()}")
    _line("library", f"{native.file} is loaded" if native.loaded else native.reason)
    if native.loaded:
        _line("  built by", f"{native.build_info['compiler']}, for torch >= {native.build_info['torch_target']}")
        _line("  CUDA part", _cuda_part())


def _report() -> int:
    """Prints what is there; 1 if the compiled operators do not load, or fail where they should work."""
    failures = []
    _print_versions()
    for device, description in _devices():
        failure = _operator_failure(device)
        expected = native.is_broken or (native.loaded and (device.type == "cpu" or not native.cuda_reason))
        failures.append(failure and expected)
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
    _line("Hugging Face cache", _hub())
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


def _commit() -> str:
    """Of the checkout that the package lies in, or that pip installed it from; empty where neither is known."""
    root = LIBRARY.parents[1]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):  # no git, or a folder that it does not trust
            return ""
    try:
        origin = importlib.metadata.distribution("perceptual_ops").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return ""
    return str(json.loads(origin or "{}").get("vcs_info", {}).get("commit_id", ""))


def _driver() -> str:
    """The NVIDIA driver's version, where Linux tells it, and the CUDA version it serves."""
    serves = "serves CUDA {}.{}".format(*driver_version())
    file = Path("/proc/driver/nvidia/version")
    match = re.search(r"\s(\d+\.\d+(\.\d+)?)\s", file.read_text()) if file.is_file() else None
    return f"{match[1]}, {serves}" if match else serves


def _hub() -> str:
    """Where networks of transformers and timm are kept, and whether the one that has a name here is."""
    cache = hub_cache()
    if cache is None:
        return "none, since huggingface_hub is missing; pip install transformers or timm, which keep networks in it"
    state = "present" if is_cached(DINOV2) else f"missing, run hf download {DINOV2}"
    return printable(f"{cache}; {DINOV2} {state}")


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
    """Runs one compiled operator against its reference; why that fails, or that plain PyTorch runs, or nothing."""
    if native.refusal(device):
        return _form(device)
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

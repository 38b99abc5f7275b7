"""The machine code in the built library, as NVIDIA's cuobjdump shows it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from math import prod
from pathlib import Path

from perceptual_ops import ops

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "perceptual_ops" / "_C.so"


@dataclass(frozen=True)
class Resources:
    """What a kernel takes on one architecture.

    Attributes:
        kernel: Its name with template arguments, such as "gram_partial_kernel<float, true>".
        architecture: 90 for sm_90.
        threads: Of a block, at most: its __launch_bounds__; 0 without any.
        registers: Of a thread.
        shared: Static bytes of a block; from sm_90 on with the kilobyte that the system takes.
        stack: Bytes of a thread.
        local: Bytes of a thread.
    """

    kernel: str
    architecture: int
    threads: int
    registers: int
    shared: int
    stack: int
    local: int


def missing() -> str:
    """Why the machine code cannot be seen, and the remedy; empty where it can."""
    if ops.native.reason:
        return ops.native.reason
    if ops.native.cuda_reason:
        return f"the library has no CUDA part ({ops.native.cuda_reason}): put nvcc on the PATH and run `make build`"
    absent = [name for name in ("cuobjdump", "nvdisasm", "c++filt") if tool(name) is None]
    if absent:
        return (
            f"{', '.join(absent)} not found: run `pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm`; "
            "c++filt comes with binutils"
        )
    return ""


@cache
def tool(name: str) -> Path | None:
    """A program of the PyPI packages, or of the PATH."""
    packages = find_spec("nvidia")
    folders = (packages.submodule_search_locations or []) if packages else []
    installed = [path for folder in folders for path in Path(folder).glob(f"*/bin/{name}")]
    found = shutil.which(name)
    return installed[0] if installed else Path(found) if found else None


def compiler() -> str:
    """Version of the CUDA toolkit that compiled the library, such as "13.0.88"."""
    versions = set(re.findall(rb"Cuda compilation tools, release [\d.]+, V([\d.]+)", LIBRARY.read_bytes()))
    return " and ".join(sorted(version.decode() for version in versions))


@cache
def resources() -> tuple[Resources, ...]:
    """Of every kernel, sorted by name and architecture."""
    return read_resources(_cuobjdump("-res-usage"), _cuobjdump("-elf"))


def read_resources(usage: str, elf: str) -> tuple[Resources, ...]:
    """The answers of cuobjdump -res-usage and -elf."""
    bounds, symbol = {}, ""
    for match in re.finditer(r"^\.nv\.info\.(\S+)$|EIATTR_MAX_THREADS\s.*\s+Value:\s+((?:0x\w+ )+)", elf, re.MULTILINE):
        symbol = match[1] or symbol
        if match[2]:
            bounds[symbol] = prod(int(word, 16) for word in match[2].split())
    pattern = re.compile(r"arch = sm_(\d+)|Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
    found, architecture = [], 0
    for match in pattern.finditer(usage):
        if match[1]:
            architecture = int(match[1])
        else:
            registers, stack, shared, local = map(int, match.groups()[2:])
            found.append((match[2], architecture, bounds.get(match[2], 0), registers, shared, stack, local))
    names = kernel_names([row[0] for row in found])
    rows = [Resources(name, *row[1:]) for name, row in zip(names, found, strict=True)]
    return tuple(sorted(rows, key=lambda row: (row.kernel, row.architecture)))


def architectures() -> list[int]:
    return sorted({row.architecture for row in resources()})


def disassemblies() -> dict[int, str]:
    """The listing of each architecture, made once for a library and kept in build/sass."""
    folder = ROOT / "build" / "sass" / hashlib.sha256(LIBRARY.read_bytes()).hexdigest()[:16]
    if not folder.exists():
        shutil.rmtree(folder.parent, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)

    def disassembly(architecture: int) -> str:
        listing = folder / f"sm_{architecture}.sass"
        if not listing.exists():
            unfinished = listing.with_suffix(".new")
            unfinished.write_text(_cuobjdump("-sass", "-arch", f"sm_{architecture}"))
            unfinished.rename(listing)
        return listing.read_text()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(architectures(), pool.map(disassembly, architectures()), strict=True))


def kernel_names(symbols: list[str]) -> list[str]:
    """Names without namespaces, return type and parameters."""
    answer = subprocess.run([tool("c++filt")], input="\n".join(symbols), capture_output=True, text=True, check=True)
    return [_short(name) for name in answer.stdout.splitlines()]


def _short(name: str) -> str:
    name = name.removeprefix("void ").replace("(anonymous namespace)::", "").replace("perceptual_ops::", "")
    depth = 0
    for place, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:place]
    return name


def _cuobjdump(*arguments: str) -> str:
    programs = [tool("cuobjdump"), tool("nvdisasm")]
    assert programs[0] is not None and programs[1] is not None
    path = os.pathsep.join([str(programs[1].parent), os.environ.get("PATH", "")])  # cuobjdump calls nvdisasm by name
    command = [programs[0], *arguments, LIBRARY]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr or done.stdout}")
    return done.stdout

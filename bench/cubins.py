"""The kernels in the built library: what NVIDIA's cuobjdump says and takes out of it."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

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
        return f"the library has no CUDA part ({ops.native.cuda_reason}): run `make build` where nvcc is"
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


@cache
def images() -> tuple[tuple[int, bytes], ...]:
    """Every cubin of the library, unpacked, with its architecture."""
    with TemporaryDirectory() as folder:
        _cuobjdump("-xelf", "all", folder=folder)
        paths = sorted(Path(folder).glob("*.sm_*.cubin"))
        return tuple((int(path.name.split(".")[-2].removeprefix("sm_")), path.read_bytes()) for path in paths)


@cache
def compiler() -> str:
    """Version of the CUDA toolkit that compiled the library, such as "13.0.88"."""
    pattern = rb"Cuda compilation tools, release [\d.]+, V([\d.]+)"
    versions = {version for _, image in images() for version in re.findall(pattern, image)}
    return " and ".join(sorted(version.decode() for version in versions))


@dataclass(frozen=True)
class Function:
    """A kernel as it lies in a cubin.

    Attributes:
        code: Its instructions, 16 bytes each.
        threads: Of a block, at most: its __launch_bounds__; 0 without any.
    """

    code: bytes
    threads: int


@cache
def functions() -> dict[int, dict[str, Function]]:
    """Of each architecture, by symbol."""
    found: dict[int, dict[str, Function]] = {}
    for architecture, image in images():
        found.setdefault(architecture, {}).update(read_functions(image))
    return {architecture: dict(sorted(found[architecture].items())) for architecture in sorted(found)}


def read_functions(elf: bytes) -> dict[str, Function]:
    """The kernels of a cubin, by symbol."""
    contents = _sections(elf)
    return {
        symbol: Function(code, max_threads(contents.get(f".nv.info.{symbol}", b"")))
        for name, code in contents.items()
        if (symbol := name.removeprefix(".text.")) != name
    }


def max_threads(info: bytes) -> int:
    """EIATTR_MAX_THREADS among the attributes of a kernel (cuobjdump -elf prints them by name); 0 without it."""
    place = 0
    while place < len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, place)
        place += 4
        if form != 4:  # the two bytes are the value, not the size of one that follows
            continue
        if attribute == 5:
            return prod(struct.unpack_from("<3I", info, place))
        place += size
    return 0


def _sections(elf: bytes) -> dict[str, bytes]:
    """The contents of the sections of a 64-bit ELF image, by name."""
    (start,) = struct.unpack_from("<Q", elf, 40)
    size, count, of_names = struct.unpack_from("<3H", elf, 58)
    headers = [struct.unpack_from("<2I4Q", elf, start + i * size) for i in range(count)]  # name, ..., place, size
    names = headers[of_names][4]
    return {
        elf[names + name : elf.index(0, names + name)].decode(): elf[place : place + length]
        for name, _, _, _, place, length in headers
    }


@cache
def resources() -> tuple[Resources, ...]:
    """Of every kernel, sorted by name and architecture."""
    threads = {
        (symbol, architecture): function.threads
        for architecture, kernels in functions().items()
        for symbol, function in kernels.items()
    }
    return read_resources(_cuobjdump("-res-usage"), threads)


def read_resources(usage: str, threads: dict[tuple[str, int], int]) -> tuple[Resources, ...]:
    """The answer of cuobjdump -res-usage, with the threads of each symbol on each architecture."""
    pattern = re.compile(r"arch = sm_(\d+)|Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
    found, architecture = [], 0
    for match in pattern.finditer(usage):
        if match[1]:
            architecture = int(match[1])
        else:
            registers, stack, shared, local = map(int, match.groups()[2:])
            found.append((match[2], architecture, threads[match[2], architecture], registers, shared, stack, local))
    names = kernel_names([row[0] for row in found])
    rows = [Resources(name, *row[1:]) for name, row in zip(names, found, strict=True)]
    return tuple(sorted(rows, key=lambda row: (row.kernel, row.architecture)))


def architectures() -> list[int]:
    return sorted({row.architecture for row in resources()})


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


def _cuobjdump(*arguments: str, folder: str | None = None) -> str:
    return run("cuobjdump", *arguments, str(LIBRARY), folder=folder)


def run(program: str, *arguments: str, folder: str | None = None) -> str:
    """What a program prints; some write into the folder that they run in."""
    command = [str(tool(program)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout

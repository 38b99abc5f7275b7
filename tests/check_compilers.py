"""`make check-compilers`: a user's build by every compiler that is at hand, as a table; exit 1 where one fails.

Each builds from nothing, not strictly, in its folder in build/compilers, where the log lies too. The library is then
loaded, has to name its compiler, and computes what the tests of the operators compare on the CPU.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "compilers"
SOURCES = (
    "CMakeLists.txt",
    "cmake",
    "csrc",
    "perceptual_ops",
    "pyproject.toml",
    "setup.py",
    "README.md",
    "LICENSE",
    "tests",
)
# What compiling takes of the CUDA toolkit on PyPI, newer than the one that wheels are made by.
TOOLKIT = (
    "nvidia-cuda-nvcc==13.5.37",
    "nvidia-cuda-crt==13.5.37",
    "nvidia-cuda-runtime==13.5.37",
    "nvidia-cuda-cccl==13.3.5.0.6",
    "nvidia-nvvm==13.5.37",
)
LISTED = ("g++-12", "g++-14", "clang++-19")  # even where they are absent
LOADED = """
import sys
from perceptual_ops._native import native
assert native.loaded, native.reason
assert sys.argv[1] in (native.build_info["compiler"].split()[-1], native.build_info["cuda"]), native.build_info
"""
TESTS = ("-p", "no:cacheprovider", "tests/test_native_library.py", "tests/test_operators.py")


@dataclass(frozen=True)
class Compiler:
    """A compiler and what it is to build.

    Attributes:
        name: As the table calls it.
        path: Its program; None where it is not installed.
        architectures: PERCEPTUAL_OPS_CUDA_ARCHS; "none" for a compiler of C++.
    """

    name: str
    path: str | None
    architectures: str = "none"

    @property
    def part(self) -> str:
        return "CPU" if self.architectures == "none" else f"CPU, CUDA sm_{self.architectures}"

    def version(self) -> str:
        said = subprocess.run([str(self.path), "--version"], check=True, capture_output=True, text=True).stdout
        return re.findall(r"\d+\.\d+\.\d+", said)[0]


def compilers_of_cpp(path: str) -> list[Compiler]:
    """Every g++ and clang++ in these folders, once by its longest name; and the listed ones that are not there."""
    programs: dict[str, str] = {}
    for folder in path.split(os.pathsep):
        for file in sorted(Path(folder).glob("*++*")):
            if re.fullmatch(r"(g|clang)\+\+(-\d+)?", file.name) and os.access(file, os.X_OK):
                programs.setdefault(file.name, str(file))
    names = {os.path.realpath(program): name for name, program in sorted(programs.items())}
    return [Compiler(name, programs.get(name)) for name in sorted({*names.values(), *LISTED})]


def nvcc_of_pypi() -> Compiler:
    """Installed beside the builds, under the version of its pin."""
    target = FOLDER / TOOLKIT[0]
    nvcc = target / "nvidia" / "cu13" / "bin" / "nvcc"
    if not nvcc.exists():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), *TOOLKIT]
        subprocess.run(pip, check=True)
    return Compiler("nvcc-pypi", str(nvcc), "90,100,120")  # its ptxas spills where 13.0's does not, on the latter two


def warnings_in(log: str) -> int:
    """Those of g++, clang++, nvcc and ptxas, each of which writes the word in its own way."""
    return len(re.findall(r"warning(?: #[\w-]+)? ?:", log))


def check(compiler: Compiler, version: str) -> str:
    """Builds and tries: "ok" with the number of warnings, or the step that failed and its log."""
    folder = FOLDER / compiler.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    subprocess.run(["cp", "-r", *SOURCES, folder], cwd=ROOT, check=True)
    (folder / "perceptual_ops" / "_C.so").unlink(missing_ok=True)
    cuda = compiler.architectures != "none"
    settings = {"CUDACXX" if cuda else "CXX": str(compiler.path), "PERCEPTUAL_OPS_CUDA_ARCHS": compiler.architectures}
    environment = {**os.environ, **settings, "PERCEPTUAL_OPS_STRICT": "0"}
    named = ".".join(version.split(".")[:2]) if cuda else version
    steps = {
        "build": ["setup.py", "-q", "build_ext", "--inplace"],
        "load": ["-c", LOADED, named],
        "tests": ["-m", "pytest", *TESTS],
    }
    log, result = folder / "log", "ok"
    for step, arguments in steps.items():
        with log.open("a") as file:
            run = [sys.executable, *arguments]
            code = subprocess.run(run, cwd=folder, env=environment, stdout=file, stderr=file, check=False).returncode
        if code:
            return f"FAILED: {step}, see {os.path.relpath(log)}"
        if step == "build" and (count := warnings_in(log.read_text())):
            result = f"ok, {count} warnings"
    return result


def main() -> int:
    compilers = [Compiler("nvcc", shutil.which("nvcc"), "90"), nvcc_of_pypi(), *compilers_of_cpp(os.environ["PATH"])]
    line, failed = "{:12} {:9} {:25} {:>7}  {}", False
    print(line.format("compiler", "version", "part", "seconds", "result"), flush=True)
    for compiler in compilers:
        if compiler.path is None:
            print(line.format(compiler.name, "", compiler.part, "", "not installed"), flush=True)
            continue
        begin, version = time.perf_counter(), compiler.version()
        result = check(compiler, version)
        failed |= not result.startswith("ok")
        seconds = f"{time.perf_counter() - begin:.0f}"
        print(line.format(compiler.name, version, compiler.part, seconds, result), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

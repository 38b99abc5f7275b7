"""Builds the kernels for the CPU, in build/host/<configuration>; compiles only what changed."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pybind11

ROOT = Path(__file__).parents[2]
# Settings of tests/host/CMakeLists.txt.
CONFIGURATIONS = {
    "plain": {},
    "asan": {"HOSTCUDA_SANITIZE": "address,undefined"},
    "tsan": {"HOSTCUDA_SANITIZE": "thread"},
    "traffic": {"HOSTCUDA_TRAFFIC": "ON"},
}


def build(configuration: str, mutants: Path | None = None) -> Path:
    """The folder of the modules of one configuration; once a process, also where it fails.

    Args:
        configuration: "plain", "asan" (with UBSan), "tsan", or "traffic", which counts the bytes that kernels touch.
        mutants: Copy of csrc with faults, of its .cu files those that see one. Its modules are in the folder mutants of
            the result.
    """
    folder, complaint = _build(configuration, mutants)
    if complaint:
        raise RuntimeError(f"the kernels do not build for the CPU:\n{complaint}")
    return folder


@cache
def _build(configuration: str, mutants: Path | None) -> tuple[Path, str]:
    """The folder, and what the compiler said if it failed."""
    folder = ROOT / "build" / "host" / configuration
    settings = {
        "CMAKE_CXX_COMPILER": "g++",  # fibers switch by its builtins
        "HOSTCUDA_MUTANTS": mutants or "",
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
        **CONFIGURATIONS[configuration],
    }
    defines = [f"-D{name}={value}" for name, value in settings.items()]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # against other processes of the same test run
        complaint = _cmake("-S", Path(__file__).parent, "-B", folder, "-G", "Ninja", *defines)
        return folder, complaint or _cmake("--build", folder)


def _cmake(*arguments: str | Path) -> str:
    # pip puts cmake and ninja beside the interpreter, whose folder need not be on the PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = ["cmake", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    return done.stdout + done.stderr if done.returncode != 0 else ""

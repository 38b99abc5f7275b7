"""Builds the kernels for the CPU, in build/host/<configuration>; compiles only what changed."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pybind11

from host.faults import MUTANTS
from host.mutants import ROOT, write_seeded

BUILD = ROOT / "build" / "host"
# The faults that a configuration holds, none of which is chosen. "plain" has all, so that all can be seen to change
# nothing; "address" those alone that it must find, so that most of its kernels are csrc's to the letter.
SEEDED = {
    "plain": MUTANTS,
    "address": [mutant for mutant in MUTANTS if mutant.configuration == "address"],
}


def build(configuration: str) -> Path:
    """The folder of the modules of one configuration; once a process, also where it fails.

    Args:
        configuration: "plain", a sanitizer ("address", "undefined", "thread"), or "traffic", which counts the bytes
            that kernels touch.
    """
    if complaint := _configure() or _compile(configuration):
        raise RuntimeError(f"the kernels do not build for the CPU:\n{complaint}")
    return BUILD / configuration


@contextmanager
def _alone() -> Iterator[None]:
    """Keeps other processes of the same test run out."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@cache
def _configure() -> str:
    """What CMake said if it failed."""
    settings = {
        "CMAKE_CXX_COMPILER": "g++",  # fibers switch by its builtins
        "HOSTCUDA_SEEDED": BUILD / "seeded",
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
    }
    defines = [f"-D{name}={value}" for name, value in settings.items()]
    with _alone():
        for name, mutants in SEEDED.items():
            write_seeded(mutants, BUILD / "seeded" / name)
        return _cmake("-S", Path(__file__).parent, "-B", BUILD, "-G", "Ninja", *defines)


@cache
def _compile(configuration: str) -> str:
    """What the compiler said if it failed."""
    with _alone():
        return _cmake("--build", BUILD, "--target", configuration)


def _cmake(*arguments: str | Path) -> str:
    # pip puts cmake and ninja beside the interpreter, whose folder need not be on the PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = ["cmake", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    return done.stdout + done.stderr if done.returncode != 0 else ""

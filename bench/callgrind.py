"""Instructions of the compiled library under valgrind's callgrind.

valgrind's processor is an AVX2 one whatever it runs on: counts do not depend on the machine. Of what runs, only the
library's own instructions are counted: those of Python and of torch change with their versions.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

# The requests to callgrind are instructions that mean nothing elsewhere; torch ships valgrind's header, and has none of
# these to start counting by.
HEADERS = Path(torch.__file__).parent / "utils/benchmark/utils/valgrind_wrapper"
REQUESTS = """
#include <callgrind.h>
extern "C" void start() { CALLGRIND_START_INSTRUMENTATION; }
extern "C" void zero() { CALLGRIND_ZERO_STATS; }
extern "C" void dump() { CALLGRIND_DUMP_STATS; }
"""
COMPILER = os.environ.get("CXX", "g++")


def why_not() -> str:
    """Why nothing can be counted here; empty where it can."""
    if platform.machine() != "x86_64":
        return f"the counted instructions are x86_64's, this is {platform.machine()}"
    missing = [program for program in ("valgrind", COMPILER) if shutil.which(program) is None]
    return f"{' and '.join(missing)} not found: instructions are not counted" if missing else ""


def compile_requests(folder: Path) -> Path:
    """A library with start(), zero() and dump(), for a process under valgrind to call."""
    source, library = folder / "requests.cpp", folder / "requests.so"
    source.write_text(REQUESTS)
    subprocess.run([COMPILER, "-O1", "-fPIC", "-shared", f"-I{HEADERS}", source, "-o", library], check=True)
    return library


def run(command: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
    """Runs a command under callgrind, whose n-th dump() writes `folder`/profile.n."""
    # Until start() it only translates; addresses are written out, so that a line is read by itself.
    tool = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={folder / 'profile'}", "--instr-atstart=no",
            "--dump-instr=yes", "--compress-pos=no"]  # fmt: skip
    done = subprocess.run([*tool, *command], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"under valgrind, {' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")


def code_of(library: Path) -> range:
    """The addresses at which this process has the code of a library."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(library))]
    ((start, end),) = [words[0].split("-") for words in lines if "x" in words[1]]
    return range(int(start, 16), int(end, 16))


def instructions_of(profile: str, library: Path, code: range) -> int:
    """Instructions of a library that ran, from the text of a profile.

    Args:
        code: Where the process had the library's code. valgrind may forget whose code it is, since perceptual_ops has
            read the library as a file before: then a line has the address itself, else what is left of it in the file.
    """
    objects: dict[str, str] = {}  # by their numbers, which stand for names once those were given
    found, is_of_a_call, is_own = 0, False, False
    for line in profile.splitlines():
        if line.startswith(("ob=", "cob=")):
            number, _, name = line.partition("=")[2].partition(" ")
            objects[number] = name or objects[number]
            if line.startswith("ob="):
                is_own = objects[number] == str(library)
        elif line.startswith("calls="):
            is_of_a_call = True  # the next line is what the callee took
        elif line.startswith("0x"):
            address, _, count = line.split()
            if not is_of_a_call and (is_own or int(address, 16) in code):
                found += int(count)
            is_of_a_call = False
    return found

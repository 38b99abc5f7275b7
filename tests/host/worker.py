"""Runs launches of a build of the kernels: here, or in a process of its own that a sanitizer may stop.

The process knows numpy and no torch, so that it starts at once and a sanitizer finds nothing but our code.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

Outputs = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Launch:
    """One launcher with its arguments.

    Attributes:
        room: The module, named as the folder in csrc.
        function: The launcher's name there.
        arguments: All of its arguments but the seed.
        orders: How many random orders of blocks and threads must give the same bits.
    """

    room: str
    function: str
    arguments: dict[str, Any]
    orders: int = 3


@cache
def load(folder: Path, room: str) -> ModuleType:
    path = folder / f"{room}.so"
    spec = importlib.util.spec_from_file_location(room, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if module.__file__ != str(path):  # pybind11 gives a process one module of a name
        raise RuntimeError(f"{path}: this process already has {module.__file__}; use run_apart")
    return module


def run(folder: Path, launch: Launch) -> Outputs:
    """The outputs of a launch; RuntimeError where the emulation stopped it or the order of threads shows."""
    function = getattr(load(folder, launch.room), launch.function)
    first: Outputs | None = None
    for seed in range(launch.orders):
        result = function(**launch.arguments, seed=seed)
        outputs = result if isinstance(result, tuple) else (result,)
        if first is not None and any(a.tobytes() != b.tobytes() for a, b in zip(first, outputs, strict=True)):
            raise RuntimeError(f"{launch.function}: order {seed} of the threads gives other bits than order 0")
        first = first or outputs
    assert first is not None
    return first


def traffic(folder: Path, launch: Launch) -> Any:
    """What a launch moved and multiplied, as its module's traffic() tells it."""
    run(folder, launch)
    return load(folder, launch.room).traffic()


RUNNERS = {"run": run, "traffic": traffic}


def run_apart(folder: Path, launches: list[Launch], sanitizer: str = "plain", runner: str = "run") -> list[Any | str]:
    """The same in a process of its own: for each launch its outputs, or the sentence that it failed with.

    Args:
        folder: As for run.
        launches: What runs, one after the other.
        sanitizer: The folder's configuration.
        runner: "run", or "traffic" for what each launch moved and multiplied instead of its outputs.

    Raises:
        RuntimeError: The process died; the message is what it said, a sanitizer's report for example.
    """
    try:
        return list(each_apart(folder, launches, sanitizer, runner))
    except RuntimeError as error:
        if "unexpected memory mapping" not in str(error):
            raise
        # Some kernels put things at random where TSan wants its shadow memory; not every container lets us ask.
        return list(each_apart(folder, launches, sanitizer, runner, prefix=("setarch", "-R")))


def each_apart(
    folder: Path,
    launches: list[Launch],
    sanitizer: str = "plain",
    runner: str = "run",
    mutant: int = 0,
    prefix: tuple[str, ...] = (),
) -> Generator[Any | str, None, None]:
    """As run_apart, one after the other; who stops early stops the process.

    Args:
        mutant: The number of a fault in modules that hold some; 0 for none.
        prefix: What comes before the command.
    """
    command = [*prefix, sys.executable, "-m", "host.worker"]
    ours = {"PYTHONPATH": str(Path(__file__).parents[1]), "HOSTCUDA_MUTANT": str(mutant), **_environment(sanitizer)}
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile() as task:
        pickle.dump((folder, launches, runner), task)
        task.seek(0)
        process = subprocess.Popen(command, stdin=task, stdout=subprocess.PIPE, stderr=said, env={**os.environ, **ours})
        assert process.stdout is not None
        try:
            for _ in launches:
                yield pickle.load(process.stdout)
            failed = process.wait() != 0
        except (EOFError, pickle.UnpicklingError):  # nothing more, or half of an answer
            failed = True
        finally:
            process.kill()
            process.stdout.close()
            process.wait()
        if failed:
            said.seek(0)
            raise RuntimeError(said.read() or f"the process ended with status {process.returncode}")


def _environment(sanitizer: str) -> dict[str, str]:
    """The interpreter is not instrumented, so the sanitizer's runtime has to be there before it starts."""
    if sanitizer == "plain":
        return {}
    # Of libstdc++, which the interpreter does not load, ASan wants to wrap the throwing of exceptions.
    libraries = [f"lib{sanitizer}.so", "libstdc++.so"]
    paths = [subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip() for name in libraries]
    return {
        "LD_PRELOAD": " ".join(paths),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1",
    }


def _answer() -> None:
    folder, launches, runner = pickle.load(sys.stdin.buffer)
    for launch in launches:
        try:
            result = RUNNERS[runner](folder, launch)
        except RuntimeError as error:
            result = str(error)
        pickle.dump(result, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _answer()

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
    with tempfile.TemporaryDirectory() as scratch:
        task, answer = Path(scratch, "task"), Path(scratch, "answer")
        task.write_bytes(pickle.dumps((folder, launches, runner)))
        command = [sys.executable, "-m", "host.worker", str(task), str(answer)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **_environment(sanitizer)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if "unexpected memory mapping" in done.stderr:
            # Some kernels put things at random where TSan wants its shadow memory; not every container lets us ask.
            done = subprocess.run(["setarch", "-R", *command], capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            raise RuntimeError(done.stderr or f"the process ended with status {done.returncode}")
        return pickle.loads(answer.read_bytes())


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


def _answer(task: Path, answer: Path) -> None:
    folder, launches, runner = pickle.loads(task.read_bytes())
    results: list[Any | str] = []
    for launch in launches:
        try:
            results.append(RUNNERS[runner](folder, launch))
        except RuntimeError as error:
            results.append(str(error))
    answer.write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    _answer(Path(sys.argv[1]), Path(sys.argv[2]))

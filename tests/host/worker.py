"""Runs launches of a build of the kernels: here, or in a process of its own that a sanitizer or a fault may stop.

The process knows numpy and no torch, so that it starts at once and a sanitizer finds nothing but our code. It loads the
modules once and forks for every request: what becomes of the child is no matter to the next.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pickle
import subprocess
import sys
import tempfile
import traceback
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

    @property
    def nbytes(self) -> int:
        """Of its arrays."""
        return _nbytes(list(self.arguments.values()))


def _nbytes(value: Any) -> int:
    if isinstance(value, list | tuple):
        return sum(map(_nbytes, value))
    return value.nbytes if isinstance(value, np.ndarray) else 0


@cache
def load(folder: Path, room: str) -> ModuleType:
    path = folder / "kernels.so"
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


def accesses(folder: Path, launch: Launch) -> Any:
    """A launch's accesses to shared memory, as its module's accesses() tells them."""
    module = load(folder, launch.room)
    module.count_accesses(True)
    run(folder, launch)
    module.count_accesses(False)
    return module.accesses()


RUNNERS = {"run": run, "traffic": traffic, "accesses": accesses}


class Worker:
    """The process. Ends with the object, or with what `with` begins."""

    def __init__(self, folder: Path, prefix: tuple[str, ...] = ()) -> None:
        """
        Args:
            folder: The modules, as build() gives it.
            prefix: What comes before the command.
        """
        self.folder = folder
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by close)
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "host.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **_environment(folder.name)},
        )

    def answers(self, launches: list[Launch], runner: str = "run", mutant: int = 0) -> list[Any | str]:
        """For each launch, one after the other, its outputs, or the sentence that it failed with.

        Args:
            launches: What runs.
            runner: "run", or instead of its outputs "traffic" for what each launch moved and multiplied, "accesses" for
                its accesses to shared memory.
            mutant: The number of a fault in modules that hold some; 0 for none.

        Raises:
            RuntimeError: The process died; the message is what it said, a sanitizer's report for example.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._said.seek(0)
        self._said.truncate()
        answers: list[Any | str] = []
        status: int | str = "none"
        try:
            pickle.dump((self.folder, launches, runner, mutant), self._process.stdin)
            self._process.stdin.flush()
            for _ in launches:
                kind, value = pickle.load(self._process.stdout)
                if kind == "died":
                    status = value
                    break
                answers.append(value)
        except (EOFError, BrokenPipeError):
            status = self._process.wait()
        if len(answers) < len(launches):
            self._said.seek(0)
            raise RuntimeError(self._said.read() or f"the process ended with status {status}")
        return answers

    def close(self) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self._process.wait()
        self._said.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_apart(folder: Path, launches: list[Launch], runner: str = "run") -> list[Any | str]:
    """The answers of a worker of one's own."""
    try:
        with Worker(folder) as worker:
            return worker.answers(launches, runner)
    except RuntimeError as error:
        if "unexpected memory mapping" not in str(error):
            raise
    # Some kernels put things at random where TSan wants its shadow memory; not every container lets us ask.
    with Worker(folder, prefix=("setarch", "-R")) as worker:
        return worker.answers(launches, runner)


# The libraries of the sanitizers.
LIBRARIES = {"address": "libasan.so", "undefined": "libubsan.so", "thread": "libtsan.so"}


def _environment(configuration: str) -> dict[str, str]:
    """The interpreter is not instrumented, so the sanitizer's runtime has to be there before it starts."""
    if configuration not in LIBRARIES:
        return {}
    # Of libstdc++, which the interpreter does not load, ASan wants to wrap the throwing of exceptions.
    libraries = [LIBRARIES[configuration], "libstdc++.so"]
    paths = [subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip() for name in libraries]
    return {
        "LD_PRELOAD": " ".join(paths),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1",
    }


def _tell(kind: str, value: Any) -> None:
    sys.stdout.buffer.write(pickle.dumps((kind, value)))
    sys.stdout.buffer.flush()


def _answer(folder: Path, launches: list[Launch], runner: str, mutant: int) -> None:
    for launch in launches:
        load(folder, launch.room).choose(mutant)
        try:
            result = RUNNERS[runner](folder, launch)
        except RuntimeError as error:
            result = str(error)
        _tell("answer", result)


def _serve() -> None:
    while True:
        try:
            folder, launches, runner, mutant = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        for launch in launches:
            load(folder, launch.room)  # here, so that no child has to
        child = os.fork()
        if child == 0:
            try:
                _answer(folder, launches, runner, mutant)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status != 0:
            _tell("died", status)


if __name__ == "__main__":
    _serve()

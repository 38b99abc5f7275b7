"""Whose build takes warnings and spilled registers for errors: a developer's, and nobody else's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
CUDA = "90" if shutil.which("nvcc") else "none"
# pip puts cmake and ninja beside the interpreter, whose folder need not be on the PATH.
TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

# setup.py build_ext with a cmake that prints its arguments.
PRINT_CMAKE = """
import subprocess, sys
subprocess.run = lambda command, **_: print(*command)
sys.argv = ["setup.py", "-q", "build_ext"]
exec(compile(open("setup.py").read(), "setup.py", "exec"), {"__file__": "setup.py", "__name__": "__main__"})
"""


def commands(folder: Path, *settings: str) -> dict[str, str]:
    """Which command compiles which source, in a build with these settings of CMake."""
    torch_folder = Path(torch.__file__).parent
    configure = ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", f"-DPERCEPTUAL_OPS_TORCH_DIR={torch_folder}"]
    architectures = f"-DPERCEPTUAL_OPS_CUDA_ARCHS={CUDA}"
    environment = {**os.environ, "PATH": TOOLS}
    subprocess.run([*configure, architectures, *settings], check=True, capture_output=True, env=environment)
    found = json.loads((folder / "compile_commands.json").read_text())
    return {entry["file"]: entry["command"] for entry in found}


@pytest.mark.skipif(
    not shutil.which("cmake", path=TOOLS) or not shutil.which("ninja", path=TOOLS), reason="needs cmake and ninja"
)
def test_warnings_are_errors_of_developers(tmp_path: Path) -> None:
    for file, command in commands(tmp_path).items():
        assert "Werror" not in command, file
    strict = commands(tmp_path, "-DPERCEPTUAL_OPS_STRICT=1")
    assert any(file.endswith(".cu") for file in strict) == (CUDA != "none")
    for file, command in strict.items():
        wanted = (
            ["--Werror=all-warnings", "-Xcompiler=-Werror", "-Xptxas -Werror"] if file.endswith(".cu") else ["-Werror"]
        )
        assert all(f" {option} " in command for option in wanted), file


@pytest.mark.parametrize(("setting", "passed"), [(None, "OFF"), ("", "OFF"), ("1", "1"), ("0", "0")])
def test_the_environment_says_who_is_a_developer(setting: str | None, passed: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PERCEPTUAL_OPS_STRICT"}
    if setting is not None:
        environment["PERCEPTUAL_OPS_STRICT"] = setting
    run = [sys.executable, "-c", PRINT_CMAKE]
    printed = subprocess.run(run, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    assert f" -DPERCEPTUAL_OPS_STRICT={passed} " in printed.replace("\n", " ")


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize(
    ("arguments", "strict"),
    [
        (["--eval=shown: ; @printenv PERCEPTUAL_OPS_STRICT", "shown"], "1"),
        (["gpu", "PYTHON=printenv PERCEPTUAL_OPS_STRICT; :"], "0"),  # whatever compilers the machine has
    ],
)
def test_make_is_a_developers_but_on_a_gpu_machine(arguments: list[str], strict: str) -> None:
    of_a_make_around = ("PERCEPTUAL_OPS_STRICT", "MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in of_a_make_around}
    run = ["make", "-s", "--no-print-directory", *arguments]
    printed = subprocess.run(run, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    assert printed.strip() == strict

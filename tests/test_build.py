"""How CMake and make compile: whose warnings are errors, what for, and what the result names."""

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
        assert f"-ffile-prefix-map={ROOT}/=" in command or file.endswith(".cu"), file  # nvcc's name no folder
        assert "-compress" in command or not file.endswith(".cu"), file
    strict = commands(tmp_path, "-DPERCEPTUAL_OPS_STRICT=1")
    assert any(file.endswith(".cu") for file in strict) == (CUDA != "none")
    for file, command in strict.items():
        wanted = (
            ["--Werror=all-warnings", "-Xcompiler=-Werror", "-Xptxas -Werror"] if file.endswith(".cu") else ["-Werror"]
        )
        assert all(f" {option} " in command for option in wanted), file


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize(
    ("arguments", "strict"),
    [
        (["--eval=shown: ; @printenv PERCEPTUAL_OPS_STRICT", "shown"], "1"),
        (["gpu", "PYTHON=printenv PERCEPTUAL_OPS_STRICT; :"], "0"),  # whatever compilers the machine has
        (["gpu", "PYTHON=printenv PERCEPTUAL_OPS_MANYLINUX; :"], "0"),
    ],
)
def test_make_is_a_developers_but_on_a_gpu_machine(arguments: list[str], strict: str) -> None:
    assert make(*arguments) == strict


def make(*arguments: str, **settings: str) -> str:
    """What make prints, under these settings alone."""
    around = ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in around}
    environment = {name: value for name, value in environment.items() if not name.startswith("PERCEPTUAL_OPS_")}
    run = ["make", "-s", "--no-print-directory", *arguments]
    variables = {**environment, **settings}
    return subprocess.run(run, cwd=ROOT, env=variables, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_a_newcomers_picture_compiles_for_the_gpu_at_hand() -> None:
    """All else compiles for every GPU, since tests read the machine code."""
    name = "PERCEPTUAL_OPS_CUDA_ARCHS"
    demo, bench = ([goal, "-o", "build", "-o", "compiled", f"RUN=printenv {name}; :"] for goal in ("demo", "bench"))
    assert (make(*demo), make(*bench)) == ("native", "all")
    assert make(*demo, **{name: "90"}) == make(*bench, **{name: "90"}) == "90"

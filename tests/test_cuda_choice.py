"""Which nvcc CMake takes, for which GPUs, and what it says where there is none; both are stood in for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
CMAKE = shutil.which("cmake", path=TOOLS)
KNOWS = "echo sm_80; echo sm_90"

pytestmark = pytest.mark.skipif(CMAKE is None, reason="needs cmake")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder of programs: one that knows of three GPUs, and an nvcc that compiles."""
    program(tmp_path / "bin" / "nvidia-smi", "echo 9.0; echo 7.5; echo 9.0")
    program(tmp_path / "bin" / "nvcc", KNOWS)
    return tmp_path


def program(file: Path, script: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def choice(machine: Path, wanted: str, **environment: str) -> list[str]:
    """The nvcc, the architectures and why there is no CUDA part; or the error alone."""
    script = machine / "choose.cmake"
    script.write_text(f"""
        include("{ROOT}/cmake/Cuda.cmake")
        set(usual_toolkit "{machine}/usual")
        perceptual_ops_choose_cuda("{wanted}")
        message(STATUS "chosen|${{cuda_nvcc}}|${{cuda_architectures}}|${{cuda_reason}}")
    """)
    variables = {"PATH": f"{machine / 'bin'}:/usr/bin:/bin", **environment}
    done = subprocess.run([str(CMAKE), "-P", script], cwd=machine, env=variables, capture_output=True, text=True)
    chosen = [line for line in done.stdout.splitlines() if "chosen|" in line]
    return chosen[0].split("|")[1:] if done.returncode == 0 else [" ".join(done.stderr.split())]


def test_the_gpus_at_hand_are_compiled_for(machine: Path) -> None:
    nvcc = str(machine / "bin" / "nvcc")
    assert choice(machine, "native") == [nvcc, "90", ""]
    assert choice(machine, "all") == [nvcc, "80;90", ""]  # of six, those that it knows
    assert choice(machine, "90,80") == [nvcc, "80;90", ""]
    assert choice(machine, "none") == ["", "", "left out by PERCEPTUAL_OPS_CUDA_ARCHS=none"]


@pytest.mark.parametrize("smi", ["echo 7.5", "echo NVIDIA-SMI has failed; exit 9", ""])
def test_without_a_gpu_nothing_is_compiled_for_one(machine: Path, smi: str) -> None:
    program(machine / "bin" / "nvidia-smi", smi)
    nvcc, architectures, reason = choice(machine, "native")
    assert (nvcc, architectures) == ("", "")
    assert reason.startswith("no NVIDIA GPU of capability 8.0 or newer was found when the library was built")
    assert choice(machine, "all")[1] == "80;90"


def test_nvcc_is_found_beside_the_path(machine: Path) -> None:
    shutil.move(machine / "bin" / "nvcc", machine / "nvcc")
    reason = choice(machine, "native")[2]
    assert reason == f"no nvcc was found when the library was built, on the PATH, in CUDA_HOME or in {machine}/usual"
    program(machine / "usual" / "bin" / "nvcc", KNOWS)
    assert choice(machine, "native")[0] == str(machine / "usual" / "bin" / "nvcc")
    program(machine / "cuda" / "bin" / "nvcc", KNOWS)
    assert choice(machine, "native", CUDA_HOME=str(machine / "cuda"))[0] == str(machine / "cuda" / "bin" / "nvcc")
    assert choice(machine, "native", CUDACXX=str(machine / "nvcc"))[0] == str(machine / "nvcc")


def test_an_nvcc_that_fails_is_named_with_its_cause(machine: Path) -> None:
    broken = machine / "bin" / "nvcc"
    program(
        broken,
        """echo 'In file included from crt/host_config.h:1'; echo '#error -- "unsupported" GNU; 15' >&2; exit 1""",
    )
    said = f"{broken} failed when the library was built: #error -- 'unsupported' GNU' 15 (1)"
    assert choice(machine, "native") == choice(machine, "all") == [str(broken), "", said]
    (error,) = choice(machine, "90")
    assert f"PERCEPTUAL_OPS_CUDA_ARCHS=90 asks for CUDA, but {said}" in error


@pytest.mark.parametrize(
    ("wanted", "gpu", "said"),
    [
        ("90,75x", "9.0", "expected `native`, `all`, `none` or numbers that"),
        ("native", "12.0", "does not know this machine's GPU, sm_120, only sm_80;sm_90: install a newer CUDA toolkit"),
    ],
)
def test_an_architecture_that_nvcc_does_not_know(machine: Path, wanted: str, gpu: str, said: str) -> None:
    program(machine / "bin" / "nvidia-smi", f"echo {gpu}")
    assert said in choice(machine, wanted)[0]
